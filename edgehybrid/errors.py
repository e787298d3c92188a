"""What can go wrong through no fault of the code, and the exit code of each.

```
EdgeHybridError              what happened, why (found and needed), what to run next
├─ UsageError          2     options that contradict each other or make no sense
├─ NotReadyError       3     a library, device or driver is missing
├─ InputError          4     a model, weights, images or a name that cannot be used
│  ├─ NotFoundError          no such model, target, image set or file: names near misses
│  ├─ GraphError             unsupported or malformed ONNX: names the node
│  ├─ WeightsError           a checkpoint that is damaged, hostile, or for another model
│  └─ ImagesError            an image set that is empty, damaged or too small
├─ StageError          5     export, calibration, quantization, build or run failed
├─ GateError           6     the budget of `--max-drop` was not met, or `lint` or `compare --strict` found something
├─ ArtifactError       7     a bundle or engine that is damaged, untrusted or incompatible
└─ ResourceError       8     disk full, out of memory, not writable
```
Anything else that escapes is a bug (exit code 1).
"""

import difflib
from collections.abc import Iterable

from edgehybrid.printable import plain


class EdgeHybridError(Exception):
    """Three short lines for the user, whatever the names of files put into them.

    Args:
        what: What happened, one line.
        why: What was found and what was needed, one line.
        fix: What to do or run next, one line.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str, fix: str) -> None:
        self.what, self.why, self.fix = plain(what), plain(why), plain(fix)
        super().__init__(self.what)

    def rename(self, old: str, new: str) -> None:
        """Put the name that the user knows in place of another."""
        self.what, self.why, self.fix = (text.replace(old, plain(new)) for text in (self.what, self.why, self.fix))
        self.args = (self.what,)

    def __str__(self) -> str:
        """The three lines."""
        return f"{self.what}\n  why: {self.why}\n  fix: {self.fix}"


class UsageError(EdgeHybridError):
    """Options that contradict each other or make no sense."""

    exit_code = 2


class NotReadyError(EdgeHybridError):
    """A library, device or driver is missing."""

    exit_code = 3


class InputError(EdgeHybridError):
    """Something the user gave cannot be used."""

    exit_code = 4


class NotFoundError(InputError):
    """No such model, target, image set or file."""


class GraphError(InputError):
    """An ONNX graph that is malformed or not supported; `what` names the node."""


class WeightsError(InputError):
    """A checkpoint that is damaged, hostile or made for another model."""


class ImagesError(InputError):
    """An image set that is empty, damaged or too small."""


class StageError(EdgeHybridError):
    """A stage started and could not finish."""

    exit_code = 5


class GateError(EdgeHybridError):
    """The result is there and misses what was asked of it.

    Args:
        what: As in EdgeHybridError.
        why: Likewise.
        fix: Likewise.
        report: The record of the result (Report, Lint or Comparison), to be shown all the same.
    """

    exit_code = 6

    def __init__(self, what: str, *, why: str, fix: str, report: object) -> None:
        super().__init__(what, why=why, fix=fix)
        self.report = report


class ArtifactError(EdgeHybridError):
    """A bundle or engine that is damaged, untrusted or incompatible."""

    exit_code = 7


class ResourceError(EdgeHybridError):
    """The machine ran out of something, or a place cannot be written."""

    exit_code = 8


def withheld(error: OSError) -> ResourceError:
    """The error for a file that is perhaps there and that the system does not hand out."""
    return ResourceError(
        f"cannot use {error.filename!s}",
        why=error.strerror or type(error).__name__,
        fix="check the path, its permissions and the disk",
    )


class Interrupted(KeyboardInterrupt):
    """Ctrl-C on the command line.

    Python remembers a KeyboardInterrupt of just that class that leaves a string in `exec` or `eval` (dataclasses and
    named tuples are made that way), and `python -m` then dies of the signal at its end, whatever was caught and
    whatever exit code was asked for (CPython's `run_eval_code_obj` and `Py_RunMain`).
    """


class Terminated(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt, nothing but the outermost caller should catch it and go on."""


def unknown_name(kind: str, name: str, known: Iterable[str], fix: str) -> NotFoundError:
    """The error for a name that is not in a table.

    Args:
        kind: What was looked for, as in "model".
        name: What was given.
        known: Every valid name.
        fix: The command that lists them.

    Returns:
        An error whose second line suggests near misses, or else lists what is known.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    why = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return NotFoundError(f"no {kind} named '{name}'", why=why, fix=fix)
