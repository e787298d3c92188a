"""The terminal table says everything it must, fits, and stays plain in a pipe."""

import io
import re
import shlex
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

import edgehybrid
from edgehybrid import reporter
from edgehybrid.records import Report, Result, Summary
from tests.reporter import samples

QUICK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Shrinking a whole report would take minutes."""

WIDTHS = (60, 72, 80, 104, 160)


def show(report: Report, width: int = 80) -> str:
    """What a pipe receives."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(reporter.table(report, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def words(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())


def test_every_number_stands_with_its_uncertainty() -> None:
    text = show(samples.labelled())
    for part in (
        "91.2",
        "[89.3, 92.8]",
        "91.1",
        "[89.2, 92.7]",
        "+0.1",
        "[-0.5, +0.7]",
        "98.7%",
        "38.3 MB",
        "measured",
    ):
        assert part in text
    assert "int8 costs 0.1 points of top-1 (95 %: -0.5 to +0.7, n = 1,000)" in words(text)


def test_a_slower_int8_is_called_slower_with_its_ratio() -> None:
    assert "is slower than fp32 on this CPU: 0.93x as fast" in words(show(samples.labelled()))


def test_a_drop_that_could_be_chance_is_not_called_a_drop() -> None:
    text = words(show(samples.labelled()))
    assert "these images show no difference from fp32 and cannot rule out a loss of 0.7 points" in text
    assert "the loss is real" in words(show(samples.on_board()))


def test_head_names_weights_target_machine_and_images() -> None:
    text = show(samples.labelled())
    for line in (
        "weights      calib/fashion-mnist/cmt_ti_64.safetensors (trained)",
        "target       cpu: This computer, ONNX Runtime on its CPU",
        f"this CPU     {samples.CPU}, 2 of 2 threads",
        "calibration  fashion-mnist, 256 images, mse",
        "evaluation   fashion-mnist, 1,000 labelled images",
    ):
        assert line in text.splitlines()


def test_untrained_weights_are_stamped_and_show_nothing_that_looks_like_accuracy() -> None:
    text = show(samples.untrained())
    assert "UNTRAINED WEIGHTS: latency is real, accuracy is not measured" in text
    assert text.count("UNTRAINED WEIGHTS") == 1
    assert "not measured" in text
    assert "%" not in text
    assert "98.7" not in text
    assert "12.3" in text


def test_a_budget_that_was_not_held_is_stamped() -> None:
    stamp = "BUDGET NOT HELD: no plan was shown to stay within 0.5 points"
    for show_as in (show, reporter.page):
        assert show_as(samples.over_budget()).count(stamp) == 1
        assert stamp not in show_as(samples.labelled())


def test_a_target_that_is_not_here_has_no_latency_and_a_reason() -> None:
    text = words(show(samples.deferred()))
    assert "its speed on the target, Jetson Orin Nano 8GB, has not been measured" in text
    assert "int8 on TensorRT deferred: not measured: build and bench on the Jetson Orin Nano 8GB itself" in text
    assert not re.search(r"\b\d[\d.]* ms\b|x as fast", text)


def test_a_failure_is_told_once_in_the_first_sentence() -> None:
    text = words(show(samples.failed()))
    assert text.count("outputs are not finite from /blocks_c.3/mlp/conv2/Conv on") == 1
    assert "engine failed (TensorRT-RTX): Error Code 4" in text


def test_an_onnx_file_does_not_say_whether_it_was_trained() -> None:
    report = samples.labelled()
    assert "(trained)" in show(report)
    weights = replace(report.model.weights, source="mine.onnx")
    users = replace(report, model=replace(report.model, weights=weights))
    assert "mine.onnx (as the file has them)" in show(users)
    assert "<b>as the file has them</b>, mine.onnx" in reporter.page(users)
    assert "(UNTRAINED)" in show(samples.untrained())


def test_an_estimate_is_marked_and_not_used_for_the_verdict() -> None:
    text = show(samples.on_board())
    assert "~3.09" in text
    assert "~ estimated, not measured" in text
    told = "2.51x as fast as fp32 on this machine (median of rounds in turns; of all calls 3.91 against 9.79 ms)"
    assert told in words(text)


def test_what_a_measured_engine_was_held_against_is_said() -> None:
    report = samples.on_board()
    assert "int8 on TensorRT: 1.18x as fast as fp16 on this device" in words(show(report))
    alone = words(show(replace(report, rows=report.rows[1:3])))  # as a build leaves it: no fp32 engine
    assert "runs 1.18x as fast as fp16 on this machine (3.91 against 4.61 ms, medians)" in alone
    assert "estimated" not in alone


@pytest.mark.parametrize("name", samples.ALL)
@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_terminal_and_no_number_is_broken(name: str, width: int) -> None:
    report = samples.ALL[name]()
    text = show(report, width)
    assert all(len(line) <= width for line in text.splitlines())
    for row in report.rows:
        if row.latency is not None:
            assert re.search(rf"(?<![\d.]){re.escape(f'{row.latency.p50:.3g}')}(?![\d.])", text)


@pytest.mark.parametrize("columns", [20, 50])
@pytest.mark.parametrize(
    "make",
    [
        samples.labelled,
        samples.on_board,
        edgehybrid.models,
        edgehybrid.targets,
        lambda: edgehybrid.targets("orin-nano-8gb"),
        lambda: Summary((samples.labelled(), samples.on_board())),
    ],
)
def test_a_terminal_too_narrow_for_a_table_cuts_no_number(
    make: Callable[[], Result], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = []
    for width in (75, columns):  # sizes are for wider ones
        monkeypatch.setenv("COLUMNS", str(width))
        reporter.print_result(make())
        whole.append(set(re.findall(r"(?<![\w.-])\d+\.\d+(?![\w.-])", capsys.readouterr().out)))
    assert whole[0]
    assert whole[0] <= whole[1]


@pytest.mark.parametrize("name", samples.ALL)
def test_a_pipe_receives_no_escapes_no_boxes_and_no_placeholders(name: str) -> None:
    text = show(samples.ALL[name]())
    assert "\x1b" not in text
    assert not re.search(r"[─━│┃┏┡]|\bnan\b|\binf\b|\bNone\b", text)
    assert "\u202e" not in text


def test_text_from_outside_is_never_read_as_markup() -> None:
    text = show(samples.hostile(), 160)
    assert "[red]" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_next_command_comes_last_and_can_be_pasted(width: int) -> None:
    report = samples.labelled()
    tail = show(report, width).split("next:")[1]
    assert shlex.split(tail.replace("\\\n", " ")) == shlex.split(report.next_command)


def test_a_quoted_argument_is_not_broken() -> None:
    command = "edgehybrid build --model cmt_ti --precision int8 --calib '/data/set --odd folder/images' --seed 0"
    tail = show(replace(samples.labelled(), next_command=command)).split("next:")[1]
    assert shlex.split(tail.replace("\\\n", " ")) == shlex.split(command)


def test_remarks_name_a_busy_machine_and_broken_outputs() -> None:
    report = samples.identical()
    assert "not finite" not in show(report)
    fidelity = report.rows[1].fidelity
    assert fidelity is not None
    broken = replace(report.rows[1], fidelity=replace(fidelity, sqnr_db=float("nan"), logit_kl=float("nan")))
    busy = replace(report.device, load=7.5)
    text = words(show(replace(report, rows=(report.rows[0], broken), device=busy)))
    assert "int8 on ONNX Runtime CPU gave outputs that are not finite: do not deploy it" in text
    assert "the machine was busy when the measurement began (load 7.5 on 2 cores)" in text


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), phases=QUICK)
@given(st.from_type(Report), st.sampled_from(WIDTHS))
def test_any_report_can_be_shown(report: Report, width: int) -> None:
    assert "\x1b" not in show(report, width)
