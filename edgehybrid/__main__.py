"""The program, as `edgehybrid` and as `python -m edgehybrid`: Ctrl-C is understood before the first slow import."""

import os
import signal
from types import FrameType
from typing import NoReturn


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, _leave)
    from edgehybrid import cli

    cli.main()


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    """End in the middle of an import, where there is nothing to clean up; `cli.main` has a handler of its own."""
    os.write(2, b"error: interrupted\n  why: Ctrl-C arrived before any stage\n  fix: run it again\n")
    os._exit(130)


if __name__ == "__main__":
    main()
