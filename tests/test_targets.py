"""Which target a build goes to: chosen by name, mode and JetPack, or found; refused if it could not read it."""

import io
from pathlib import Path

import pytest
from rich.console import Console

import edgehybrid
from edgehybrid import device, reporter
from edgehybrid.errors import UsageError
from edgehybrid.pipeline import options
from edgehybrid.progress import listening
from edgehybrid.records import Plan, Ranges
from edgehybrid.reporter.target import figure_text
from edgehybrid.stages import Quantized
from tests.fakes import Notes


def be(monkeypatch: pytest.MonkeyPatch, target: str, mode: str | None, jetpack: str | None) -> None:
    monkeypatch.setattr(device, "detect_target", lambda: target)
    monkeypatch.setattr(device, "detect_mode", lambda: mode)
    monkeypatch.setattr(device, "detect_jetpack", lambda: jetpack)


def test_this_machine_is_a_target_with_its_mode_and_jetpack(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, "orin-nx-16gb", "25W", "5.1.2")
    found = options.load_target("auto", "int8")
    assert (found.name, found.dialect, found.mode) == ("orin-nx-16gb@25w@jp5.1.2", "fp32", "25W")
    assert edgehybrid.targets("auto").targets == (found,)


def test_a_board_in_a_mode_or_under_a_jetpack_of_its_own_is_taken_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, "orin-nano-8gb", "MY_MODE", "8.0")
    notes = Notes()
    with listening(notes):
        assert options.load_target("auto", "int8").name == "orin-nano-8gb"
    assert len(notes.told) == 2
    assert "MY_MODE" in notes.told[0]


def test_a_pc_has_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, "cpu", None, None)
    assert options.load_target("auto", "int8").name == "cpu"


@pytest.mark.parametrize(
    ("spec", "precision", "fix"),
    [
        ("nano-4gb", "fp16", "newer board"),
        ("xavier-nx@jp4.6", "int8", "--target xavier-nx@jp5.1.6"),
        ("tx2", "int8", "choose a newer board: edgehybrid targets"),
        ("nano-4gb", "int8", "newer board"),
    ],
)
def test_a_target_that_could_not_read_the_result_is_refused(spec: str, precision: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        options.load_target(spec, precision)  # type: ignore[arg-type]
    assert fix in caught.value.fix


def test_every_target_that_is_not_refused_reads_its_dialect() -> None:
    for target in edgehybrid.targets().targets:
        if target.name not in ("tx2", "nano-4gb"):
            assert options.load_target(target.name, "int8") == target


def test_tensorrt_8_gets_no_file_of_an_opset_it_cannot_read() -> None:
    baseline, typed, runnable = Path("baseline.onnx"), Path("typed.onnx"), Path("runnable.onnx")
    fp16 = Quantized(typed, typed, Plan("typed", ()), None, baseline)
    int8 = Quantized(runnable, typed, Plan("typed", ()), Ranges("mse", 1, "0", {}), baseline)
    xavier, orin, cpu = (edgehybrid.targets(name).targets[0] for name in ("xavier-nx", "orin-nano-8gb", "cpu"))
    assert (fp16.deployed(xavier), fp16.deployed(orin), fp16.deployed(cpu)) == (baseline, typed, typed)
    assert (int8.deployed(xavier), int8.deployed(orin), int8.deployed(cpu)) == (runnable, typed, runnable)


@pytest.mark.parametrize("name", [target.name for target in edgehybrid.targets().targets])
def test_one_target_is_shown_in_full(name: str) -> None:
    (target,) = edgehybrid.targets(name).targets
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(reporter.listings.to_table(edgehybrid.targets(name)))
    text = console.export_text()
    for figure in target.figures:
        assert figure in text
    for mode in target.modes:
        assert mode.name in text
    assert ("unknown" in text) == any(figure.value is None for figure in target.figures.values())
    assert (" ?" in text) == (not all(x.confirmed for x in (*target.figures.values(), *target.modes, *target.stacks)))


def test_an_unknown_figure_is_empty_and_an_unconfirmed_one_marked() -> None:
    figures = edgehybrid.targets("agx-thor-t5000").targets[0].figures
    assert figure_text(figures["gpu_int8_dense"]) == ""
    assert figure_text(figures["tensor_cores"]) == "96 ?"
    assert figure_text(None) == ""
