"""Errors become three lines and an exit code; results go to stdout, the rest to stderr."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from edgehybrid import cli, errors
from edgehybrid.progress import listener
from edgehybrid.records import Models
from edgehybrid.version import __version__
from tests.linter import files
from tests.reporter import samples

runner = CliRunner()


def run(verb: Callable[..., object], *words: str) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(cli.as_command(verb))
    return runner.invoke(app, list(words))


def failing(error: BaseException) -> Callable[..., object]:
    def verb(*, size: int = 3) -> Models:
        """Fail.

        Args:
            size: A number.
        """
        raise error

    return verb


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UsageError, 2),
        (errors.NotReadyError, 3),
        (errors.InputError, 4),
        (errors.NotFoundError, 4),
        (errors.GraphError, 4),
        (errors.WeightsError, 4),
        (errors.ImagesError, 4),
        (errors.StageError, 5),
        (errors.ArtifactError, 7),
        (errors.ResourceError, 8),
    ],
)
def test_an_error_is_three_lines_and_its_exit_code(kind: type[errors.EdgeHybridError], code: int) -> None:
    result = run(failing(kind("it broke", why="found a, needed b", fix="do c")))
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == "error: it broke\n  why: found a, needed b\n  fix: do c\n"


@pytest.mark.parametrize(
    ("words", "what", "command"),
    [
        (["build", "--precison", "int8"], "No such option: --precison (Possible options: ", "edgehybrid build"),
        (["build", "--batch", "x"], "Invalid value for '--batch'", "edgehybrid build"),
        (["bench"], "Missing argument", "edgehybrid bench"),
        (["biuld"], "No such command 'biuld'. Did you mean 'build'?", "edgehybrid"),
    ],
)
def test_a_command_line_that_is_not_understood_is_three_lines_too(
    words: list[str],
    what: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *asked: None)  # the handlers are this process's own
    for asked in (words, [*words, "--json"]):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/edgehybrid", *asked])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        told = capsys.readouterr()
        first, *rest = told.err.splitlines()
        assert first.startswith(f"error: {what}")
        assert rest == ["  why: the command line was not understood", f"  fix: {command} --help"]
        assert (told.out != "") == ("--json" in asked)
    document = json.loads(told.out)
    assert (document["exit_code"], document["fix"]) == (2, f"{command} --help")


def test_an_error_stays_three_lines_whatever_a_file_is_called() -> None:
    name = "a\nb\x1b]0;evil\x07\u202e\udcff"
    said = run(failing(errors.InputError(f"no file {name}", why=f"{name} is not there", fix=f"check {name}"))).stderr
    assert [line.split(":")[0] for line in said.splitlines()] == ["error", "  why", "  fix"]
    assert all(character.isprintable() for line in said.splitlines() for character in line)


@pytest.mark.parametrize("error", [errors.ImagesError("no", why="w", fix="f"), KeyboardInterrupt(), RuntimeError("x")])
def test_with_json_a_failure_is_a_document_too(error: BaseException) -> None:
    plain, told = run(failing(error)), run(failing(error), "--json")
    assert plain.stdout == ""
    assert (told.exit_code, told.stderr) == (plain.exit_code, plain.stderr)
    document = json.loads(told.stdout)
    assert (document["schema"], document["exit_code"]) == ("edgehybrid.error/1", told.exit_code)
    assert told.stderr == f"error: {document['what']}\n  why: {document['why']}\n  fix: {document['fix']}\n"


def test_what_is_kept_is_told_only_where_a_stage_began() -> None:
    def verb() -> Models:
        """Stop within a stage."""
        listener().begin("calibrate")
        raise KeyboardInterrupt

    for words in ((), ("--quiet",)):
        assert "in calibrate\n  fix: run it again; stages that had finished are kept" in run(verb, *words).stderr
        assert "kept" not in run(failing(KeyboardInterrupt()), *words).stderr


def test_a_failed_gate_shows_the_result_and_exits_6() -> None:
    result = run(failing(errors.GateError("over", why="w", fix="f", report=samples.labelled())), "--json")
    assert result.exit_code == 6
    assert json.loads(result.stdout)["schema"] == "edgehybrid.report/1"
    assert result.stderr.startswith("error: over\n")


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (errors.Terminated(), 143), (MemoryError(), 8)]
)
def test_signals_and_memory_have_their_codes(error: BaseException, code: int) -> None:
    assert run(failing(error)).exit_code == code


def test_a_bug_is_one_message_without_a_traceback_unless_asked() -> None:
    quiet = run(failing(RuntimeError("oops")))
    assert (quiet.exit_code, "Traceback" in quiet.stderr) == (1, False)
    assert "internal error: RuntimeError: oops" in quiet.stderr
    assert "Traceback" in run(failing(RuntimeError("oops")), "-vv").stderr


def test_a_pipe_that_breaks_within_a_verb_is_no_success() -> None:
    result = run(failing(BrokenPipeError("ssh has gone")))
    assert (result.exit_code, "internal error: BrokenPipeError: ssh has gone" in result.stderr) == (1, True)


def test_a_reader_that_leaves_early_ends_it_quietly() -> None:
    code = "from edgehybrid import cli; import sys; sys.argv[1:] = ['models', '--json']; cli.main()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_file_that_the_system_withholds_is_no_bug() -> None:
    result = run(failing(PermissionError(13, "Permission denied", "/data/a.onnx")))
    assert result.exit_code == 8
    assert result.stderr.startswith("error: cannot use /data/a.onnx\n  why: Permission denied\n")
    assert run(failing(OSError("something else"))).exit_code == 1


@pytest.mark.parametrize("words", [["verify", "b"], ["report", "b"], ["bench", "b"], ["lint", "m.onnx"]])
def test_what_may_not_be_read_is_no_misuse(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *asked: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text("{}")
    onnx.save(files.plain(), tmp_path / "m.onnx")
    monkeypatch.setattr("os.access", lambda *asked, **options: False)  # root may read anything
    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(onnx, "load", refuse)
    result = runner.invoke(cli.app, words)
    assert result.exit_code == 8
    assert result.stderr.splitlines()[1:] == [
        "  why: Permission denied",
        "  fix: check the path, its permissions and the disk",
    ]


def test_a_wrong_type_or_option_is_a_usage_error() -> None:
    assert run(failing(RuntimeError()), "--size", "x").exit_code == 2
    near = run(failing(RuntimeError()), "--siez", "3")
    assert near.exit_code == 2
    assert "--size" in near.stderr


def test_a_choice_that_is_not_there_lists_those_that_are() -> None:
    result = runner.invoke(cli.app, ["build", "--precision", "int4"])
    assert result.exit_code == 2
    assert "int8" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "say"),
    [
        (["build", "--model", "cmt_tiny"], 4, "cmt_ti"),
        (["build", "--target", "orin-nano"], 4, "orin-nano-8gb"),
        (["build", "--batch", "0"], 2, "--batch"),
        (["build", "--max-drop", "1"], 2, "--eval"),
        (["build", "--calib", "no/such/folder"], 4, "no/such/folder"),
        (["build", "--model", "gone.onnx"], 4, "gone.onnx"),
        (["build", "--weights", "gone.pth"], 4, "gone.pth"),
        (["build", "--num-calib", "100000"], 4, "100000"),
        (["verify", "no-such-bundle"], 4, "no bundle no-such-bundle"),
        (["verify", "shelf/own"], 4, "name one that is: shelf/one"),
        (["bench", "no-such-file"], 4, "edgehybrid quickstart makes one"),
        (["report", "no-such-bundle"], 4, "no bundle no-such-bundle"),
        (["build", "--model", ""], 4, "no model named ''"),
        (["build", "--model", "shelf"], 2, "edgehybrid build shelf"),
        (["build", "cmt_ti"], 2, "edgehybrid build --model cmt_ti"),
        (["build", "mine.onnx"], 2, "edgehybrid build --model mine.onnx"),
        (["verify", "shelf"], 7, "name a bundle within it: shelf/one"),
        (["lint", "shelf"], 4, "name an .onnx file"),
        (["build", "--max-drop", "nan", "--eval", "fashion-mnist"], 2, "--max-drop nan"),
        (["build", "--ranges", "shelf/one/manifest.json"], 7, "not a usable calibration file"),
        (["export", "--output", "shelf"], 2, "--output shelf is a folder"),
        (["compare", "shelf/one/manifest.json", "shelf/one"], 7, "shelf/one/manifest.json is no report"),
        (["bench", "gone.onnx"], 4, "gone.onnx"),
        (["bench", "x" * 300], 8, "File name too long"),
        (["build", "--model", "x" * 300 + ".onnx"], 8, "File name too long"),
    ],
)
def test_bad_input_is_named(
    words: list[str], code: int, say: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shelf" / "one").mkdir(parents=True)
    (tmp_path / "shelf" / "one" / "manifest.json").write_text("{}")
    result = runner.invoke(cli.app, words)
    assert result.exit_code == code, result.stderr
    assert say in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith(("error:", "  why:", "  fix:"))]) == 3
    assert list(tmp_path.glob("builds/*")) == []


def test_a_folder_called_like_a_model_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cmt_ti").mkdir()
    result = runner.invoke(cli.app, ["build", "--model", "cmt_ti", "--weights", "gone.pth"])
    assert (result.exit_code, "gone.pth" in result.stderr) == (4, True)  # it got as far as the model's weights
    assert "cmt_ti is not a bundle" in runner.invoke(cli.app, ["build", "cmt_ti"]).stderr


def test_a_node_of_a_strangers_file_steers_no_terminal(tmp_path: Path) -> None:
    path, proto = tmp_path / "m.onnx", files.plain(zero=np.int8(3))
    for node in proto.graph.node:
        node.name = f"\x1b]0;evil\x07[/bold]{node.name}"
    onnx.save(proto, path)
    said = runner.invoke(cli.app, ["lint", str(path)]).stdout
    assert "[/bold]" in said  # a name is no markup either
    assert not {"\x1b", "\x07"} & set(said)


def outer(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of the program itself."""
    monkeypatch.setattr(sys, "argv", ["edgehybrid", *words])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return ended.value.code or 0  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (None, 130), (typer.Abort(), 130), (errors.Terminated(), 143)]
)
def test_a_signal_before_the_command_began_ends_as_one_within_it(
    error: BaseException | None, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(standalone_mode: bool) -> int:
        if error is None:
            return 130
        raise error

    monkeypatch.setattr(cli, "app", app)
    assert outer(monkeypatch, "models", "--json") == code
    told = capsys.readouterr()
    by = "SIGTERM" if code == 143 else "Ctrl-C"
    assert told.err.splitlines()[1:] == [f"  why: {by} arrived before any stage", "  fix: run it again"]
    assert json.loads(told.out)["exit_code"] == code


@pytest.mark.parametrize("within", ["{}", "exec({!r})"], ids=["plain", "in a string"])
@pytest.mark.parametrize(
    ("sent", "code", "what"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")], ids=["INT", "TERM"]
)
def test_a_signal_during_the_start_leaves_no_traceback(
    sent: str, code: int, what: str, within: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(
        "import signal, sys; from edgehybrid import cli; sys.argv[1:] = ['models']\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"def late(*asked, **options): {within.format(f'signal.raise_signal(signal.{sent})')}\n"
        "cli.app = late; cli.main()"
    )
    done = subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.startswith(f"error: {what}")


def test_ctrl_c_while_the_program_is_being_imported_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from edgehybrid.__main__ import main\n"
        "slow = {'numpy', 'typer', 'dataclasses'} & set(sys.modules); assert not slow, slow\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'edgehybrid.cli': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder()); main()"
    )
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[0]) == (130, "error: interrupted")
    assert "Traceback" not in done.stderr


def test_an_interrupted_document_is_not_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def echo(text: str = "", err: bool = False) -> None:
        (sys.stderr if err else sys.stdout).write(text[:20])
        if not err:
            raise KeyboardInterrupt

    monkeypatch.setattr(typer, "echo", echo)
    result = run(lambda: Models(()), "--json")
    assert (result.exit_code, len(result.stdout)) == (130, 20)
    assert "error: interrupted" in result.stderr


def test_the_version_is_told_without_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outer(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"edgehybrid {__version__}\n"


@pytest.mark.parametrize("words", [("build", "--siez", "3"), ("nothing",), ("build", "--precision", "int4")])
def test_a_command_line_that_is_not_understood_is_a_document_too(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outer(monkeypatch, *words) == 2
    plain = capsys.readouterr()
    assert plain.out == ""
    assert outer(monkeypatch, *words, "--json") == 2
    told = capsys.readouterr()
    assert told.err == plain.err
    assert json.loads(told.out)["what"] in told.err.replace("\n", " ")


def test_exit_codes_of_commands_are_those_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outer(monkeypatch, "verify", "nothing") == 4
    assert outer(monkeypatch, "models", "--json") == 0


def test_a_name_that_no_report_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    result = runner.invoke(cli.app, ["verify", "a\udcff", "--json"])
    assert (result.exit_code, json.loads(result.stdout)["exit_code"]) == (2, 2)
    assert "is no UTF-8" in result.stderr


def test_models_and_targets_are_documents_with_a_schema() -> None:
    listed = json.loads(runner.invoke(cli.app, ["models", "--json"]).stdout)
    assert listed["schema"] == "edgehybrid.models/1"
    assert {"cmt_ti", "cmt_xs", "cmt_s", "cmt_b"} <= {m["name"] for m in listed["models"]}
    listed = json.loads(runner.invoke(cli.app, ["targets", "--json"]).stdout)
    assert {"cpu", "rtx", "orin-nano-8gb"} <= {t["name"] for t in listed["targets"]}


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line of a shell in which $E is the program."""
    env = {**os.environ, "E": f"{sys.executable} -m edgehybrid", "COLUMNS": "100"}
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=env)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$E models 2>&-", 0),
        ("$E models >&-", 0),
        ("$E models <&- >&- 2>&-", 0),
        ("$E build --model nope 2>&-", 4),
        ("$E build --model nope --json >/dev/full", 4),
        ("$E build --model nope 2>/dev/full", 4),
        ("$E models >/dev/full", 8),
        ("$E models --json >/dev/full", 8),
        ("$E --version >/dev/full", 8),
    ],
)
def test_a_stream_that_is_closed_or_full_costs_no_exit_code(line: str, code: int) -> None:
    done = shell(line)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert ("error: the result cannot be printed" in done.stderr) == (code == 8)


def test_letters_that_a_stream_does_not_know_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "café →𝄞.onnx"
    onnx.save(files.plain(), path)
    lint = f"PYTHONIOENCODING=ascii $E lint '{path}'"
    table, document = shell(lint).stdout, shell(f"{lint} --json").stdout
    assert "caf\\u00e9" in table
    assert json.loads(document)["path"] == str(path)


def test_a_name_that_the_shells_settings_hide_is_told_from_one_that_is_no_utf_8() -> None:
    hidden = shell("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $E lint café.onnx --json")
    assert hidden.returncode == 2
    assert json.loads(hidden.stdout)["what"] == "model café.onnx cannot be read"
    assert "LC_ALL=C.UTF-8" in hidden.stderr


def with_readers_gone(*lines: str) -> subprocess.CompletedProcess[str]:
    """Python whose stdout and stderr nobody reads, and what it leaves in a third stream."""
    start = ["import os, sys", "from edgehybrid import cli, errors", "read, write = os.pipe()", "os.close(read)"]
    program = "\n".join([*start, "told = os.dup(1)", "os.dup2(write, 1), os.dup2(write, 2)", *lines])
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_progress_that_nobody_reads_stops_nothing() -> None:
    done = with_readers_gone(
        "told_by = cli.Terminal()", "told_by.note('a'), told_by.note('b')", "os.write(told, b'on')"
    )
    assert (done.returncode, done.stdout) == (0, "on")


def test_a_gate_fails_whether_its_report_is_read_or_not(tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    half = numpy_helper.from_array(np.asarray(3, np.uint8), "zero")
    scale = numpy_helper.from_array(np.asarray(0.1, np.float32), "scale")
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["out"], name="dq"),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 8, 8)) for name in ("input", "out")]
    body = helper.make_graph(nodes, "net", info[:1], info[1:], [half, scale])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    done = with_readers_gone(f"sys.argv[1:] = ['lint', {str(path)!r}, '--strict']", "cli.main()")
    assert done.returncode == 6


def test_a_ctrl_c_that_a_library_turns_into_an_import_error_is_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ImportError("initialization failed")
    not_ready = errors.NotReadyError("backend 'onnxruntime' is not ready", why="initialization failed", fix="pip")
    not_ready.__cause__ = absent
    for error in (absent, not_ready):
        assert run(failing(error)).exit_code == (3 if error is not_ready else 1)
    monkeypatch.setattr(cli._said, "interrupted", True)
    for error in (absent, not_ready):
        assert run(failing(error)).exit_code == 130
