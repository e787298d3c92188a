"""Bundles told again and side by side: page, document and spreadsheet of several, and what changed between two."""

import contextlib
import csv
import functools
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import edgehybrid
from edgehybrid import cli, delivery, findings, reporter, store
from edgehybrid.console import Terminal
from edgehybrid.errors import ArtifactError, GateError, NotFoundError, UsageError
from edgehybrid.printable import counted
from edgehybrid.progress import listening
from edgehybrid.records import (
    Adjustment,
    Comparison,
    Conditions,
    Decision,
    EngineBuild,
    EngineOptions,
    ImageSet,
    Measurement,
    Plan,
    Power,
    Ranges,
    Recipe,
    Report,
    Summary,
)
from edgehybrid.reporter import wording
from edgehybrid.reporter.spreadsheet import to_csv
from tests.reporter import samples

RECIPE = Recipe("cmt_ti", "auto", "int8", "cpu", 1, 64, 1.0, 10, "photos", 8, "mse", "val", 8, 0)
LABELS = np.arange(1000) % 10

Write = Callable[..., Path]


def logits(wrong: int) -> np.ndarray:  # type: ignore[type-arg]
    """Answers to 1,000 images of which the first so many are wrong."""
    given = LABELS.copy()
    given[:wrong] = (given[:wrong] + 1) % 10
    return np.eye(10, dtype=np.float32)[given]


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a bundle of a report whose networks are none."""

    def write(name: str, report: Report, wrong: int | None = None) -> Path:
        (tmp_path / "network").write_bytes(b"none")
        answers = None
        if wrong is not None:
            both = {"fp32": logits(80), "int8": logits(wrong)}
            answers = findings.answers(both, LABELS, "order", trained=True)  # type: ignore[arg-type]
        folder = tmp_path / name
        network = tmp_path / "network"
        report = replace(report, bundle=name)
        delivery.write(
            folder,
            report,
            RECIPE,
            baseline=network,
            deployed=network,
            ranges=None,
            scales=None,
            product=EngineBuild(report.engine, network),
            control=None,
            versions={},
            answers=answers,
        )
        return folder

    return write


def forge(bundle: Path, **files: bytes) -> Path:
    """The bundle with other files under names with `_` for `.`, and a manifest that vouches for all of them."""
    opened = store.open_bundle(bundle)
    kept: dict[str, store.Content] = {name: (bundle / name).read_bytes() for name in delivery.listed(opened.manifest)}
    facts = {key: value for key, value in opened.manifest.items() if key not in ("schema", "edgehybrid", "files")}
    store.write_bundle(bundle, kept | {name.replace("_", "."): data for name, data in files.items()}, facts)
    return bundle


# --- report ---------------------------------------------------------------------------------------


def test_one_bundle_is_its_report_and_several_are_a_summary(write: Write) -> None:
    first, second = write("first", samples.labelled()), write("second", samples.untrained())
    assert edgehybrid.report([first]) == replace(samples.labelled(), bundle=str(first))
    assert edgehybrid.report(first) == edgehybrid.report([first])  # type: ignore[arg-type]
    found = edgehybrid.report([first, second])
    assert isinstance(found, Summary)
    assert [report.bundle for report in found.reports] == [str(first), str(second)]
    document = reporter.document_of(found)
    assert document["schema"] == "edgehybrid.summary/1"
    assert [inner["schema"] for inner in document["reports"]] == ["edgehybrid.report/1"] * 2  # type: ignore[attr-defined]


def test_a_report_says_where_its_bundle_lies_now(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = samples.labelled()
    plan = replace(made.engine, path="old/engine.plan")
    write("old", replace(made, engine=plan, next_command="edgehybrid build old --host ssh://user@BOARD"))
    (tmp_path / "old").rename(tmp_path / "new one")
    found = edgehybrid.report([tmp_path / "new one"], output=tmp_path / "page.html")
    assert isinstance(found, Report)
    assert (found.bundle, found.engine.path) == (str(tmp_path / "new one"), str(tmp_path / "new one" / "engine.plan"))
    assert found.next_command == f"edgehybrid build '{tmp_path / 'new one'}' --host ssh://user@BOARD"
    assert reporter.document_of(found)["bundle"] == found.bundle
    reporter.print_result(found)
    for shown in ("".join(capsys.readouterr().out.split()), "".join((tmp_path / "page.html").read_text().split())):
        assert "".join(found.bundle.split()) in shown
        assert "old/" not in shown


@pytest.mark.parametrize("name", ["report_json", "answers_json", "engine_json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 5000, b'{"stamp": 3, "control": 4, "schema": 5}'])
def test_what_a_manifest_vouches_for_may_be_nonsense_all_the_same(write: Write, name: str, content: bytes) -> None:
    bundle = forge(write("a", samples.labelled(), 80), **{name: content, "engine_plan": b"ptrt"})
    read = functools.partial(delivery.loadable_engines, board="x") if "engine" in name else delivery.read_measured
    with pytest.raises(ArtifactError):
        read(bundle)


def test_a_report_with_a_number_beyond_any_float_is_refused(write: Write) -> None:
    bundle = write("a", samples.labelled())
    document = json.loads((bundle / "report.json").read_bytes())
    document["model"]["params"] = 10**400
    with pytest.raises(ArtifactError) as caught:
        edgehybrid.report(forge(bundle, report_json=json.dumps(document).encode()))
    assert caught.value.why == "Report.params: the number is too large"


def test_the_suffix_decides_what_is_written(write: Write, tmp_path: Path) -> None:
    bundles = [write("first", samples.labelled()), write("second", samples.labelled())]
    for name in ("all.html", "all.json", "all.csv"):
        edgehybrid.report(bundles, output=tmp_path / name)
    page = (tmp_path / "all.html").read_text()
    assert "2 bundles" in page
    assert "<script" not in page
    assert page.count(samples.CPU) >= 1
    assert json.loads((tmp_path / "all.json").read_text())["schema"] == "edgehybrid.summary/1"
    assert len(read(tmp_path / "all.csv")) == 4
    edgehybrid.report(bundles[:1], output=tmp_path / "one.json")
    assert json.loads((tmp_path / "one.json").read_text())["schema"] == "edgehybrid.report/1"
    with pytest.raises(UsageError, match="no such format"):
        edgehybrid.report(bundles, output=tmp_path / "all.pdf")
    assert not (tmp_path / "all.pdf").exists()


def test_a_file_that_was_asked_for_is_named(write: Write, tmp_path: Path) -> None:
    bundle, told = write("a", samples.labelled()), Terminal()
    with listening(told), contextlib.redirect_stderr(io.StringIO()) as said:
        edgehybrid.report([bundle], output=tmp_path / "page.html")
        edgehybrid.compare(bundle, bundle, output=tmp_path / "changes.csv")
    assert [line.rpartition("/")[2] for line in said.getvalue().splitlines()] == ["page.html", "changes.csv"]


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (38_159, "38.2 kB"),
        (118_938, "119 kB"),
        (999_999, "1.0 MB"),
        (33_400_000, "33.4 MB"),
    ],
)
def test_a_size_is_told_in_a_unit_that_shows_it(count: int, said: str) -> None:
    assert wording.size(count) == said


def test_nouns_agree_with_their_number() -> None:
    assert [counted(1, "image"), counted(1000, "image")] == ["1 image", "1,000 images"]
    assert [counted(1, "class"), counted(2, "class")] == ["1 class", "2 classes"]


def test_two_bundles_of_one_model_are_told_apart(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundles = [Path(write(name, samples.labelled()).name) for name in ("before", "after")]
    reporter.print_result(edgehybrid.report(bundles, output=tmp_path / "two.html"))
    shown, page = capsys.readouterr().out, (tmp_path / "two.html").read_text()
    assert [line for line in shown.splitlines() if line != line.rstrip()] == []
    for name in ("before", "after"):
        assert sum(line.startswith(f"{name}: cmt_ti") for line in shown.splitlines()) == 1
        assert page.count(f'<th scope="row">{name}<small>cmt_ti') == 2


def test_latencies_of_two_machines_never_share_a_table(write: Write, tmp_path: Path) -> None:
    here = samples.labelled()
    there = replace(here, device=replace(here.device, name="Other machine", power_mode="7W"))
    edgehybrid.report([write("a", here), write("b", there)], output=tmp_path / "two.html")
    page = (tmp_path / "two.html").read_text()
    assert page.count("<h2>") == 3  # two machines and the list of bundles
    assert "Other machine, 7W" in page


def test_a_spreadsheet_holds_what_the_report_holds() -> None:
    report = samples.labelled()
    power = Power(6.0, 7.5, 4.0, 60.0, 3.0, 15, 300, ("VDD_IN",), "ina3221")
    seen = Conditions(3.0, 2, 48.0, {}, None, {}, 2.0, power)
    rows = tuple(replace(row, latency=row.latency and replace(row.latency, conditions=seen)) for row in report.rows)
    lines = list(csv.DictReader(io.StringIO(to_csv([replace(report, rows=rows)]))))
    fp32, int8 = lines
    assert (int8["precision"], int8["energy_mj"], int8["temperature_c"]) == ("int8", "60.0", "48.0")
    assert float(int8["p50_ms"]) == rows[1].latency.p50  # type: ignore[union-attr]
    assert (float(int8["drop_low"]), fp32["drop"]) == (-0.49, "")


def test_no_accuracy_of_untrained_weights_and_no_formula_gets_into_a_spreadsheet() -> None:
    report = samples.untrained()
    evil = replace(report, model=replace(report.model, name='=HYPERLINK("http://x")'))
    lines = list(csv.DictReader(io.StringIO(to_csv([evil]))))
    assert {line["top1"] for line in lines} == {""}
    assert {line["model"][0] for line in lines} == {"'"}


# --- compare --------------------------------------------------------------------------------------


def test_two_bundles_are_compared_answer_by_answer(write: Write, tmp_path: Path) -> None:
    a, b = write("a", samples.labelled(), wrong=90), write("b", samples.labelled(), wrong=120)
    found = edgehybrid.compare(a, b, output=tmp_path / "both.csv")
    int8 = next(contrast for contrast in found.contrasts if contrast.a.startswith("int8"))
    assert int8.accuracy is not None
    assert (int8.accuracy.paired, int8.accuracy.points, int8.accuracy.verdict) == (True, 3.0, "worse")
    fp32 = next(contrast for contrast in found.contrasts if contrast.a.startswith("fp32"))
    assert fp32.accuracy is not None
    assert (fp32.accuracy.points, fp32.accuracy.verdict) == (0.0, "no difference shown")
    rows = read(tmp_path / "both.csv")
    assert {row["verdict"] for row in rows} == {"worse", "no difference shown"}
    document = reporter.document_of(found)
    assert document["schema"] == "edgehybrid.compare/1"
    json.dumps(document, allow_nan=False)


def test_strictly_a_worse_one_fails_and_still_shows_the_table(write: Write) -> None:
    a, b = write("a", samples.labelled(), wrong=90), write("b", samples.labelled(), wrong=120)
    with pytest.raises(GateError) as caught:
        edgehybrid.compare(a, b, strict=True)
    assert caught.value.exit_code == 6
    assert isinstance(caught.value.report, Comparison)
    assert "int8/onnxruntime-cpu is worse" in caught.value.why
    assert edgehybrid.compare(b, a, strict=True).contrasts  # better is no failure


def test_a_report_and_a_bundle_are_compared_without_pairs(write: Write, tmp_path: Path) -> None:
    a = write("a", samples.labelled(), wrong=90)
    found = edgehybrid.compare(a / "report.json", a)
    changes = [contrast.accuracy for contrast in found.contrasts if contrast.accuracy]
    assert changes
    assert not any(change.paired for change in changes)
    assert found.differences == {}


def test_what_bench_prints_can_be_compared(tmp_path: Path) -> None:
    report = samples.labelled()
    measured = Measurement("model.onnx", report.device, report.rows, report.evaluation)
    document = reporter.document_of(measured)
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(document))
    assert delivery.read_measured(path) == (measured, None)
    found = edgehybrid.compare(path, path)
    assert {c.latency.verdict for c in found.contrasts if c.latency} == {"no difference shown"}
    assert all(c.latency.ci95 for c in found.contrasts if c.latency)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema": "edgehybrid.measurement/1"}', '{"schema": 3}'])
def test_what_is_no_measurement_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ArtifactError) as caught:
        edgehybrid.compare(path, path)
    assert caught.value.exit_code == 7
    with pytest.raises(NotFoundError):
        edgehybrid.compare(tmp_path / "none", path)


def test_changed_answers_are_refused(write: Write) -> None:
    a = write("a", samples.labelled(), wrong=90)
    text = (a / delivery.ANSWERS).read_text()
    (a / delivery.ANSWERS).write_text(text.replace("[", "[ ", 1))
    with pytest.raises(ArtifactError, match="damaged"):
        edgehybrid.compare(a, a)


def test_untrained_networks_leave_no_answers() -> None:
    assert findings.answers({"fp32": logits(0)}, LABELS, "order", trained=False) is None
    assert findings.answers({"fp32": logits(0)}, None, "order", trained=True) is None


@pytest.mark.parametrize(
    ("labels", "trained", "statuses"),
    [(LABELS, True, ["measured", "measured"]), (None, True, ["deferred", "measured"]),
     (LABELS, False, ["deferred", "measured"])],
)  # fmt: skip
def test_a_row_without_a_measurement_does_not_call_itself_measured(
    labels: np.ndarray | None,  # type: ignore[type-arg]
    trained: bool,
    statuses: list[str],
    tmp_path: Path,
) -> None:
    network = tmp_path / "network"
    network.write_bytes(b"none")
    given = {"fp32": logits(80), "int8": logits(90)}
    scored = findings.accuracy_rows({"fp32": network, "int8": network}, given, labels, trained)  # type: ignore[arg-type]
    assert [row.status for row in scored] == statuses
    board = samples.orin_nano()
    rows = findings.with_latency(scored, {}, board)
    assert [row.status for row in rows] == statuses
    told = "run as the reference of the others" if statuses[0] == "deferred" else "scored"
    assert rows[0].reason == f"{told} on this machine; latency is orin-nano-8gb's to measure"
    assert rows[1].reason == "scored on this machine; latency is orin-nano-8gb's to measure"
    moved = findings.scored_elsewhere(rows, board, "a laptop")
    assert [row.reason for row in moved] == [
        f"{deed} on a laptop, where the bundle was made" for deed in (told, "scored")
    ]
    timed = findings.with_latency(scored, {"fp32": samples.latency(5.0), "int8": samples.latency(9.0)}, board)
    assert [row.status for row in timed] == ["measured", "measured"]


def test_the_command_line_takes_several_bundles_and_prints_a_comparison(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = write("a", samples.labelled(), wrong=90), write("b", samples.labelled(), wrong=120)

    def run(*words: str) -> tuple[str, int]:
        monkeypatch.setattr("sys.argv", ["edgehybrid", *words])
        with pytest.raises(SystemExit) as done:
            cli.main()
        return capsys.readouterr().out, int(done.value.code or 0)

    out, code = run("report", str(a), str(b))
    assert (code, out.count("int8")) == (0, 2)
    out, code = run("compare", str(a), str(b), "--strict")
    assert code == 6
    assert "+3.00 lost" in " ".join(out.split())
    assert "worse" in out


# --- next, and the gate ---------------------------------------------------------------------------


def next_of(recipe: Recipe, target: str, *, built: bool = False, **counts: int) -> str:
    goal, options = edgehybrid.targets(target).targets[0], EngineOptions(workspace_mib=512, dla_core=0)
    named = {name.replace("_", "-"): count for name, count in counts.items()}
    return findings.next_command(recipe, goal, Path("b"), counts=named, options=options, has_engine=built)


def test_the_next_command_keeps_what_was_asked_for() -> None:
    assert next_of(RECIPE, "cpu") == (
        "edgehybrid build --model cmt_ti --weights auto --input-size 64 --crop-pct 1.0 --precision int8 --eval val "
        "--target orin-nano-8gb"
    )
    asked = replace(
        RECIPE,
        model="m.onnx",
        batch=4,
        ranges="r.json",
        equalize="off",
        max_drop=0.5,
        method="minmax",
        profile="p.json",
    )
    told = next_of(asked, "cpu", num_classes=10, num_calib=8, num_eval=100)
    assert "--weights" not in told
    for words in (
        *("--model m.onnx", "--batch 4", "--ranges r.json", "--equalize off", "--max-drop 0.5", "--method minmax"),
        *("--profile p.json", "--num-classes 10", "--num-calib 8", "--num-eval 100"),
    ):
        assert words in told


def test_the_next_command_of_a_board_goes_for_its_engine() -> None:
    told = next_of(RECIPE, "orin-nano-8gb")
    assert told == "edgehybrid build b --host ssh://user@BOARD --workspace 512 --dla 0"
    assert next_of(RECIPE, "orin-nano-8gb", built=True) == "edgehybrid bench b"


def test_what_tuning_kept_is_said() -> None:
    tried = [Adjustment("centering", site, site == "x", 20.0, 45.0, "") for site in "xyz"]
    assert findings.tuning_notes(()) == findings.tuning_notes(tuple(tried[1:])) == ()
    (kept,) = findings.tuning_notes(tuple(tried))
    assert kept.endswith("1 of 3 tensors centred (+25.0 dB there)")


def test_what_loud_images_changed_is_said() -> None:
    even, left = (
        Decision(node, "Conv", 0, "x", "float", rule, "") for node, rule in (("a", "grouped"), ("b", "uneven"))
    )
    plan, ranges = Plan("typed", (even,)), Ranges("mse", 8, "", {})
    assert findings.uneven_notes(plan, ranges) == findings.uneven_notes(plan, None) == ()
    (bent,) = findings.uneven_notes(plan, replace(ranges, exponent=3))
    assert "clip them less" in bent
    (one,) = findings.uneven_notes(Plan("typed", (even, left, left)), ranges)
    assert "1 layer stays float" in one


def test_a_network_that_the_rules_left_in_float_is_named() -> None:
    def of(node: str, kind: Literal["weight", "float"], rule: str) -> Decision:
        return Decision(node, "Conv", 1, "x", kind, rule, f"{rule} stays float")

    thin = [of("a", "float", "thin"), of("a", "float", "bias"), of("b", "float", "bias"), of("b", "float", "thin")]
    note, work = findings.int8_notes, {"a": 50, "b": 20, "c": 30}
    alone = Plan("fp32", (of("c", "float", "deep"), *thin, of("relu", "float", "deep"), of("gelu", "float", "deep")))
    assert note("int8", alone, work) == ("none of 3 layers is int8; 2 of them: thin stays float",)
    assert note("int8", Plan("fp32", tuple(thin)), {"a": 1, "b": 1}) == ("none of 2 layers is int8: thin stays float",)
    some = Plan("fp32", (*thin, of("c", "weight", "good")))
    assert note("int8", some, work) == ()
    (few,) = note("int8", some, {**work, "c": 3})
    assert few == "only 1 of 3 layers is int8, 4 % of the multiply-accumulates: thin stays float"
    assert note("mixed", some, {**work, "c": 3}) == note("fp16", alone, work) == ()  # the search tells of mixed


def test_what_is_to_be_known_of_images_is_said_once() -> None:
    one = ImageSet("named", "named", 64, "", note="28 px, upscaled")
    assert findings.image_notes(replace(RECIPE, calib="named"), one, replace(one, images=100), 0) == (
        "named: 28 px, upscaled",
    )


def test_fidelity_is_said_to_be_on_the_images_that_were_seen() -> None:
    (own,) = findings.image_notes(replace(RECIPE, calib="mine"), None, None, 0)
    assert "fidelity is on the calibration images" in own
    (other,) = findings.image_notes(replace(RECIPE, ranges="r.json"), None, None, 0)
    assert "fidelity is on images of photos" in other


@pytest.mark.parametrize(("images", "max_drop", "few"), [(764, 0.5, True), (765, 0.5, False), (10, 0.0, False)])
def test_too_few_images_for_a_budget_are_known_beforehand(images: int, max_drop: float, few: bool) -> None:
    assert (findings.too_few(images, max_drop) is not None) == few
