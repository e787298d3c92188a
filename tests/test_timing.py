"""How engines and graphs are timed: lanes, parts, percentiles, samples on disk, and options that are refused."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import edgehybrid
from edgehybrid import benchmark, cli, findings, stages
from edgehybrid.engine import find_builders
from edgehybrid.errors import ArtifactError, NotReadyError, UsageError
from edgehybrid.records import BenchOptions, Latency, Runnable
from edgehybrid.runtime import Split, Tensors
from tests.fakes import FakeClock
from tests.single import SingleNet


class FakeEngine:
    """Calls of known parts; at most one under way per lane."""

    def __init__(self, clock: FakeClock, name: str, *, lanes: int = 1, compute: float = 4.0) -> None:
        self.clock, self.name, self.lanes, self.compute = clock, name, lanes, compute
        self.graph_reason = ""
        self.under_way: dict[int, bool] = {}
        self.most = self.calls = 0
        self.transfers: list[bool] = []

    def load(self, feeds: Tensors) -> None:
        assert "input" in feeds

    def start(self, lane: int, *, transfers: bool = True) -> None:
        assert lane not in self.under_way
        self.under_way[lane] = transfers
        self.transfers.append(transfers)
        self.most = max(self.most, len(self.under_way))

    def finish(self, lane: int) -> Split:
        copied = self.under_way.pop(lane)
        self.calls += 1
        self.clock.advance((self.compute + 2 * copied) / 1e3 / self.lanes)
        return Split(1.0 * copied, self.compute, 1.0 * copied, 0.1)


FEEDS = {"input": np.zeros((1, 3, 2, 2), np.float32)}


def test_latency_is_upload_compute_and_download_and_every_call_counts() -> None:
    clock = FakeClock()
    engine = FakeEngine(clock, "a")
    (found,) = benchmark.measure_devices([engine], FEEDS, warmup=0, iterations=12, duration=0, clock=clock)
    assert found.latency.n == 15  # whole rounds of 5
    assert (found.latency.p50, found.part("compute").p50, found.part("h2d").p50) == (6.0, 4.0, 1.0)
    assert found.throughput == pytest.approx(1000 / 6)


def test_without_transfers_only_the_first_call_copies() -> None:
    clock = FakeClock()
    engine = FakeEngine(clock, "a")
    (found,) = benchmark.measure_devices(
        [engine], FEEDS, transfers=False, warmup=0, iterations=5, duration=0, clock=clock
    )
    assert engine.transfers == [True] + [False] * 5
    assert found.latency.p50 == 4.0


def test_every_lane_is_kept_under_way() -> None:
    clock = FakeClock()
    engine = FakeEngine(clock, "a", lanes=3)
    (found,) = benchmark.measure_devices([engine], FEEDS, warmup=0, block=6, iterations=6, duration=0, clock=clock)
    assert engine.most == 3
    assert found.latency.p50 == 6.0
    assert found.throughput == pytest.approx(3 * 1000 / 6)


def test_two_engines_take_turns_and_stop_together() -> None:
    clock, told = FakeClock(), []
    first, second = FakeEngine(clock, "a"), FakeEngine(clock, "b", compute=8.0)
    a, b = benchmark.measure_devices(
        [first, second], FEEDS, warmup=0.05, iterations=1, duration=0.2, progress=told.append, clock=clock
    )
    assert a.latency.n == b.latency.n
    assert min(a.seconds, b.seconds) >= 0.2
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert benchmark.compare(a.latency, b.latency).value == pytest.approx(10 / 6)


def test_percentiles_are_samples_as_trtexec_takes_them() -> None:
    latency = benchmark.summarise([float(i) for i in range(1, 101)])
    assert [benchmark.nearest_percentile(latency, p) for p in (50, 90, 99, 99.9, 100)] == [50, 90, 99, 100, 100]
    with pytest.raises(ValueError, match="above 0"):
        benchmark.nearest_percentile(latency, 0)


@pytest.mark.parametrize(("fp16", "said"), [(10.0, "2.00x as fast as fp16 on this device"), (5.1, "not worth it")])
def test_int8_is_held_against_its_fp16_control(fp16: float, said: str) -> None:
    def steady(ms: float) -> Latency:
        return benchmark.summarise([ms] * 50)

    files = {"int8": Runnable(Path("a"), "tensorrt"), "fp16": Runnable(Path("b"), "tensorrt")}
    (note,) = findings.control_notes(files, {"int8": steady(5.0), "fp16": steady(fp16)})  # type: ignore[arg-type]
    assert said in note
    del files["fp16"]
    (note,) = findings.control_notes(files, {"int8": steady(5.0)})  # type: ignore[arg-type]
    assert "no fp16 control" in note
    assert findings.control_notes({"int8": Runnable(Path("a"), "onnxruntime")}, {"int8": steady(5.0)}) == ()


# --- the verb, on ONNX Runtime ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    net = SingleNet(1, 3, 16, 16)
    flat = net.op("Flatten", net.op("GlobalAveragePool", net.conv("input", 3, 8, 3)))
    path = tmp_path_factory.mktemp("bench") / "net.onnx"
    path.write_bytes(net.graph(net.op("Gemm", flat, net.weight(8, 10))).to_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEHYBRID_CACHE_DIR", str(path.parent / "cache"))
        yield path


QUICK = {"warmup": 0.0, "duration": 0.0, "iterations": 10}


def test_bench_times_alone_and_end_to_end_and_profiles(network: Path, tmp_path: Path) -> None:
    csv_path = tmp_path / "samples.csv"
    found = edgehybrid.bench(network, **QUICK, percentile="50,99.9", layers=2, samples=csv_path)  # type: ignore[arg-type]
    assert [row.backend for row in found.rows] == ["onnxruntime-cpu", "onnxruntime-cpu end-to-end"]
    alone, whole = (row.latency for row in found.rows)
    assert alone is not None
    assert whole is not None
    assert whole.n >= 10
    (timing,) = found.timings
    assert set(timing.percentiles) == {"50", "99.9"}
    assert timing.percentiles["99.9"] == alone.max
    assert timing.throughput == pytest.approx(1e3 / alone.mean)
    assert {layer.kind for layer in timing.layers} >= {"GlobalAveragePool"}
    lines = list(csv.DictReader(csv_path.read_text().splitlines()))
    assert len(lines) == alone.n
    assert [float(line["latency_ms"]) for line in lines] == pytest.approx(alone.samples, abs=1e-6)
    assert {line["h2d_ms"] for line in lines} == {""}


def test_the_command_line_shows_and_serialises_it(network: Path) -> None:
    options = ["--warmup", "0", "--duration", "0", "--iterations", "6", "--layers", "1"]
    shown = CliRunner().invoke(cli.app, ["bench", str(network), *options])
    assert shown.exit_code == 0, shown.output
    for word in ("calls/s", "scatter", "slowest layers", "end-to-end"):
        assert word in shown.output
    document = json.loads(CliRunner().invoke(cli.app, ["bench", str(network), *options, "--json", "--quiet"]).stdout)
    assert document["schema"] == "edgehybrid.measurement/1"
    assert document["timings"][0]["layers"][0].keys() == {"name", "kind", "ms", "percent"}


def test_two_measurements_of_one_bundle_are_judged_against_their_common_float32(network: Path, tmp_path: Path) -> None:
    bundle = Path(edgehybrid.build(model=str(network), num_calib=8, target="cpu", output=tmp_path / "b").bundle)
    options = ["--warmup", "0", "--duration", "0", "--iterations", "60", "--json", "--quiet"]
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text(CliRunner().invoke(cli.app, ["bench", str(bundle), *options]).stdout)
    found = edgehybrid.compare(tmp_path / "one.json", tmp_path / "two.json")
    judged = {contrast.a: contrast.latency for contrast in found.contrasts}
    assert set(judged) == {
        "fp32/onnxruntime-cpu", "int8/onnxruntime-cpu",
        "fp32/onnxruntime-cpu end-to-end", "int8/onnxruntime-cpu end-to-end",
    }  # fmt: skip
    for row in ("int8/onnxruntime-cpu", "int8/onnxruntime-cpu end-to-end"):
        change = judged[row]
        assert change is not None
        assert change.relative_to == "fp32"
        assert change.relative_ci95 is not None
        assert change.relative_ci95[0] <= (change.relative or 0) <= change.relative_ci95[1]
    assert found.differences == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cuda_graph": True}, "onnxruntime has no cuda-graph"),
        ({"streams": 2}, "onnxruntime has no streams"),
        ({"transfers": False}, "no copies to leave out"),
        ({"percentile": "0"}, "--percentile 0 makes no sense"),
        ({"percentile": "p99"}, "--percentile p99 makes no sense"),
        ({"iterations": 0}, "--iterations 0 makes no sense"),
        ({"duration": float("nan")}, "--duration nan makes no sense"),
        ({"duration": float("inf")}, "--duration inf makes no sense"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(network: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        edgehybrid.bench(network, **{**QUICK, **options})  # type: ignore[arg-type]


def test_a_network_that_takes_no_pictures_has_no_end_to_end_row(network: Path) -> None:
    from edgehybrid import dataset
    from edgehybrid.records import Preprocess

    images = dataset.load("photos", at_most=2, split="calib")
    found = stages.time_networks(
        {"fp32": Runnable(network, "onnxruntime")}, BenchOptions(0, 0, 3), Preprocess(size=99), images
    )
    assert found["fp32"].end_to_end is None


def test_an_engine_that_nobody_vouches_for_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "engine.plan").write_bytes(b"ptrt")
    with pytest.raises(ArtifactError, match="is not a bundle"):
        edgehybrid.bench(tmp_path / "engine.plan")


def test_an_engine_of_a_bundle_needs_its_device(network: Path, tmp_path: Path) -> None:
    if find_builders().rtx is None:
        pytest.skip("TensorRT-RTX (extra 'rtx') is not installed")
    from edgehybrid import device

    if device.capability() is not None:
        pytest.skip("this machine has a CUDA device")
    built = edgehybrid.build(model=str(network), num_calib=8, target="rtx", output=tmp_path / "rtx")
    bundle = Path(built.bundle)
    with pytest.raises((ArtifactError, NotReadyError), match="compute capability") as caught:
        edgehybrid.bench(bundle / "engine.plan", **QUICK)  # type: ignore[arg-type]
    assert caught.value.exit_code == 7
    assert "edgehybrid build" in caught.value.fix
    timed = edgehybrid.bench(bundle, **QUICK)  # type: ignore[arg-type]
    assert any("no CUDA device" in note for note in timed.notes)
