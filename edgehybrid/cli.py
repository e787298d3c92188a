"""The command line: signatures and docstrings of pipeline.COMMANDS become commands, errors become exit codes."""

import errno
import inspect
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from edgehybrid.console import Quiet, Terminal, escape_strange_letters, mute, open_missing_streams, write_error
from edgehybrid.errors import (
    EdgeHybridError,
    GateError,
    Interrupted,
    NotReadyError,
    ResourceError,
    Terminated,
    UsageError,
    withheld,
)
from edgehybrid.pipeline import COMMANDS
from edgehybrid.progress import listening
from edgehybrid.records import Comparison, Diagnosis, Lint, Report, Result, Stream
from edgehybrid.store import to_json
from edgehybrid.version import __version__

ERROR_SCHEMA = "edgehybrid.error/1"
"""Of the document that --json prints in place of a result."""
SIGINT_CODE, SIGTERM_CODE = 130, 143
SIGNAL_CODES = {"interrupted": SIGINT_CODE, "terminated": SIGTERM_CODE}
"""Of a stream, which a signal ends in good order: it is shown, and the code tells of the signal."""

WITHHELD = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE),
}
"""Why a system withholds a file that is perhaps there."""

app = typer.Typer(
    name="edgehybrid",
    help="Quantize, check and measure hybrid CNN-Transformer vision models for embedded NVIDIA GPUs.",
    epilog="Begin with `edgehybrid quickstart`. Exit codes: 0 ok, 1 bug, 2 usage, 3 environment, 4 bad input, "
    "5 a stage failed, 6 a gate failed (--max-drop, --strict), 7 artifact untrusted, 8 resources, 130/143 signals.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


_MISUSE: type[typer.BadParameter] = typer.BadParameter.__base__  # type: ignore[assignment]
"""What the parser raises for a command line that it does not understand; typer does not name that class itself."""


def main() -> None:
    """Run the command line."""
    try:
        _said.anything = _said.document = _said.interrupted = False
        open_missing_streams()
        escape_strange_letters()
        signal.signal(signal.SIGTERM, _terminate)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, _interrupt)
        code = app(standalone_mode=False)
        if code == SIGINT_CODE and not _said.anything:  # the parser's own answer to Ctrl-C
            raise Interrupted
        sys.exit(code)
    except (typer.Abort, KeyboardInterrupt):  # before the command began, or while it was ending
        _leave(_interrupted("interrupted", "Ctrl-C", ""), SIGINT_CODE)
    except Terminated:
        _leave(_interrupted("terminated", "SIGTERM", ""), SIGTERM_CODE)
    except OSError as error:  # help or the version could not be printed
        try:
            _stop_printing(error)
        except ResourceError as full:
            _leave(full, full.exit_code)
        sys.exit(0)
    except _MISUSE as error:
        if type(error).show is not _MISUSE.show:  # nothing was asked for: it shows the help
            error.show()
            sys.exit(error.exit_code)
        asked = "edgehybrid" if error.ctx is None else error.ctx.command_path
        misuse = UsageError(error.format_message(), why="the command line was not understood", fix=f"{asked} --help")
        _leave(misuse, misuse.exit_code)


def _leave(error: EdgeHybridError, code: int) -> NoReturn:
    """End the program with an error that no command told."""
    _ignore_signals()
    _tell(error, code, as_json="--json" in sys.argv)
    sys.exit(code)


def show_version(asked: bool) -> None:
    """Print it and end, if asked to."""
    if asked:
        typer.echo(f"edgehybrid {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Options before the command."""


def as_command(verb: Callable[..., Result]) -> Callable[..., None]:
    """A function with the verb's parameters, plus --json, --quiet and --verbose, that prints what the verb returns.

    Typer reads a command from its signature, so the signature is rebuilt: a positional parameter becomes an
    argument, a keyword-only one an option, each with its line of the docstring's `Args:` as help.
    """
    signature = inspect.signature(verb)
    helps = argument_lines(verb)
    parameters = []
    for parameter in signature.parameters.values():
        is_argument = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        kind = typer.Argument if is_argument else typer.Option
        read = _parsed(parameter.annotation)
        # What cannot be read is no misuse: the verb says so. mypy cannot know that a variable holds a type.
        shown = kind(help=helps[parameter.name], show_default=True, readable=False)
        annotated = Annotated[read, shown]  # type: ignore[valid-type]
        parameters.append(parameter.replace(annotation=annotated, kind=parameter.KEYWORD_ONLY))
    for name, flags, text in (
        ("as_json", ["--json"], "Print one JSON document instead of a table."),
        ("quiet", ["--quiet", "-q"], "No progress on stderr."),
    ):
        flag = Annotated[bool, typer.Option(*flags, help=text)]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=flag))
    verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="-vv shows tracebacks.")]
    parameters.append(inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=0, annotation=verbose))

    def command(*, as_json: bool, quiet: bool, verbose: int, **options: object) -> None:
        _said.anything = _said.document = False
        told = Quiet() if quiet else Terminal()
        with listening(told):
            _run(lambda: verb(**_readable(options)), told, as_json=as_json, verbose=verbose)

    command.__name__ = verb.__name__
    command.__doc__ = inspect.cleandoc(verb.__doc__ or "").split("\n\nArgs:")[0].split("\n\nReturns:")[0]
    command.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    return command


def _parsed(annotation: object) -> object:
    """As typer can read it: it knows no choice between a number and text, and text can hold the number."""
    return str | None if annotation == int | str | None else annotation


def _readable(options: dict[str, object]) -> dict[str, object]:
    """The same options, if every name in them can be written into a report.

    Raises:
        UsageError: One is no UTF-8, which neither JSON nor ONNX Runtime can hold, or was not read as such.
    """
    for name, value in options.items():
        if any("\udc80" <= letter <= "\udcff" for letter in str(value)):
            raise _unreadable(name.replace("_", "-"), str(value))
    return options


def _unreadable(option: str, value: str) -> UsageError:
    """The error for a name with bytes that Python could not read as letters."""
    try:
        meant = os.fsencode(value).decode()
    except UnicodeDecodeError:
        return UsageError(
            f"{option} {value} is no UTF-8",
            why="neither a report nor ONNX Runtime can hold such a name",
            fix="rename the file or folder",
        )
    return UsageError(
        f"{option} {meant} cannot be read",
        why=f"by its settings this shell writes names in {sys.getfilesystemencoding()}",
        fix="set LC_ALL=C.UTF-8, and unset PYTHONUTF8",
    )


def argument_lines(verb: Callable[..., Result]) -> dict[str, str]:
    """Parameter -> its text in the docstring's `Args:` section, in one line."""
    section = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(verb.__doc__ or ""), re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _run(work: Callable[[], Result], told: Quiet | Terminal, *, as_json: bool, verbose: int) -> None:
    try:
        result = work()
        if isinstance(result, Stream) and result.ended in SIGNAL_CODES:
            _ignore_signals()  # one that comes late must not cost the summary
        _show(result, as_json=as_json)
        if isinstance(result, Diagnosis) and any(check.status == "fail" for check in result.checks):
            raise typer.Exit(NotReadyError.exit_code)
        if isinstance(result, Stream) and result.ended in SIGNAL_CODES:
            raise typer.Exit(SIGNAL_CODES[result.ended])
    except typer.Exit:
        raise
    except GateError as error:
        if isinstance(error.report, Report | Lint | Comparison):
            _show(error.report, as_json=as_json)
        _fail(error, error.exit_code, verbose)  # on stdout stands the result, which says more than an error could
    except (EdgeHybridError, ImportError) as error:
        if _said.interrupted and isinstance(error.__cause__ or error, ImportError):  # C code makes that of a Ctrl-C
            _fail(_interrupted("interrupted", "Ctrl-C", told.stage), SIGINT_CODE, verbose, as_json=as_json)
        known = error if isinstance(error, EdgeHybridError) else _unforeseen(error)
        _fail(known, known.exit_code, verbose, as_json=as_json)
    except KeyboardInterrupt:
        _fail(_interrupted("interrupted", "Ctrl-C", told.stage), SIGINT_CODE, verbose, as_json=as_json)
    except Terminated:
        _fail(_interrupted("terminated", "SIGTERM", told.stage), SIGTERM_CODE, verbose, as_json=as_json)
    except MemoryError as error:
        full = ResourceError("out of memory", why=str(error) or "an allocation failed", fix="use a smaller --batch")
        _fail(full, full.exit_code, verbose, as_json=as_json)
    except Exception as error:
        unforeseen = _unforeseen(error)
        _fail(unforeseen, unforeseen.exit_code, verbose, as_json=as_json)


def _unforeseen(error: Exception) -> EdgeHybridError:
    """A file that the system withholds, wherever it was touched; anything else is a bug."""
    if isinstance(error, OSError) and error.errno in WITHHELD and error.filename is not None:
        return withheld(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error).splitlines()[0] if str(error).strip() else "no message"
    return EdgeHybridError(
        f"internal error: {type(error).__name__}: {text}",
        why=f"a bug in edgehybrid, at {Path(where.filename).name}:{where.lineno}",
        fix="run again with -vv and report what it prints",
    )


def _show(result: Result, *, as_json: bool) -> None:
    from edgehybrid import reporter

    _said.anything = True
    document = _text_of(reporter.document_of(result)) if as_json else ""
    _said.document = as_json
    try:
        if as_json:
            typer.echo(document)
        else:
            reporter.print_result(result)
    except OSError as error:
        _stop_printing(error)


def _stop_printing(error: OSError) -> None:
    """What is left to print has nowhere to go; whoever closed a pipe has seen enough.

    Raises:
        ResourceError: Where it was to go to is full or broken.
    """
    mute(sys.stdout)
    if not isinstance(error, BrokenPipeError):
        raise ResourceError(
            "the result cannot be printed",
            why=f"standard output: {error.strerror or type(error).__name__}",
            fix="make room where it goes, and run it again: stages that had finished are kept",
        ) from error


def _failure(error: EdgeHybridError, code: int | None = None) -> dict[str, object]:
    """The document of an error; its own exit code unless told otherwise."""
    said = {"what": error.what, "why": error.why, "fix": error.fix}
    return {"schema": ERROR_SCHEMA, "edgehybrid": __version__, "exit_code": code or error.exit_code, **said}


def _text_of(document: Mapping[str, object]) -> str:
    """JSON that can be printed; printing ends the line."""
    return to_json(document).decode().rstrip("\n")


def _interrupted(what: str, by: str, stage: str) -> EdgeHybridError:
    """The error for a signal, by what there is to go on from."""
    fix = "run it again; stages that had finished are kept" if stage else "run it again"
    return EdgeHybridError(what, why=f"{by} arrived {f'in {stage}' if stage else 'before any stage'}", fix=fix)


def _fail(error: EdgeHybridError, code: int, verbose: int, *, as_json: bool = False) -> NoReturn:
    """Three lines on stderr; with --json also a document on stdout."""
    _ignore_signals()  # a second Ctrl-C would cost the code of the first
    if verbose > 1:
        write_error(traceback.format_exc())
    _tell(error, code, as_json=as_json)
    raise typer.Exit(code)


def _tell(error: EdgeHybridError, code: int, *, as_json: bool) -> None:
    """An error on stderr, and as the document on stdout unless one has begun there, where they can be written."""
    write_error(f"error: {error}\n")
    _said.anything = True
    if as_json and not _said.document:
        _said.document = True
        try:
            typer.echo(_text_of(_failure(error, code)))
        except OSError:  # the exit code still tells
            mute(sys.stdout)


class _Said:
    """What the program has said so far, and been told."""

    interrupted = False  # by Ctrl-C
    anything = False  # a result or an error
    document = False  # stdout has one, or a part of it: two in a row are no JSON


_said = _Said()


def _ignore_signals() -> None:
    """Let nothing stop what is left to say."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    _said.interrupted = True
    raise Interrupted


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


for _verb in COMMANDS:
    app.command(name=_verb.__name__)(as_command(_verb))
