"""The benchmarks: all can be imported, and what of those for a GPU runs without one must not rot until then."""

import argparse
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgehybrid import pipeline
from edgehybrid.graph import Graph, name_of
from edgehybrid.records import Target
from tests.single import SingleNet

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are not here")
RTX = Target("here", "this GPU", "tensorrt-rtx", "typed", ("int8",))
FULL = Target("here", "this GPU", "tensorrt", "typed", ("int8",))
TRTEXEC = """#!/bin/sh
echo "[11/21/2026-10:00:00] [I] TensorRT version: 10.3.0"
echo "[11/21/2026-10:00:00] [I] Latency: min = 0.71 ms, max = 0.9 ms, mean = 0.75 ms, median = 0.74 ms"
echo "[11/21/2026-10:00:00] [I] H2D Latency: min = 0.01 ms, max = 0.1 ms, mean = 0.02 ms, median = 0.02 ms"
echo "[11/21/2026-10:00:00] [I] GPU Compute Time: min = 0.52 ms, max = 0.6 ms, mean = 0.54 ms, median = 0.53 ms"
"""


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Benchmarks import each other by name."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in set(sys.modules) - before:
        if (FOLDER / f"{name}.py").is_file():
            del sys.modules[name]


def forget_the_runner() -> None:
    """It holds what it was imported with."""
    for name in [name for name in sys.modules if name.startswith("edgehybrid.runtime.trt")]:
        del sys.modules[name]


def load(name: str) -> ModuleType:
    return __import__(name)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_every_benchmark_can_be_imported_and_says_what_it_is(scripts: None, name: str) -> None:
    """What is named at import time exists; they are outside mypy."""
    if name == "stream":
        pytest.importorskip("av")
    assert load(name).__doc__


def test_without_a_gpu_the_scripts_end_with_a_word(scripts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgehybrid import device

    if device.capability() is not None:
        pytest.skip("this machine has a CUDA device")
    for name in ("gpu", "engines"):
        monkeypatch.setattr(sys, "argv", [name])
        with pytest.raises(SystemExit, match="no CUDA device"):
            load(name).main()


def test_the_hosts_part_of_a_call_is_measured_anywhere_and_called_that(
    scripts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    overhead = load("runner_overhead")
    monkeypatch.setattr(overhead, "CALLS", 3)
    monkeypatch.setattr(overhead, "ROUNDS", 2)
    forget_the_runner()  # it may hold another test's stand-in
    try:
        found = overhead.measure_host()
    finally:
        forget_the_runner()
    assert "host time only" in found["kind"]
    assert {(row["way"], row["call"]) for row in found["rows"]} == {
        (way, call)
        for way in ("CUDA graph", "enqueue")
        for call in ("bare", "run, pinned buffer", "run, an array", "start and finish")
    }


def test_what_trtexec_prints_is_read(scripts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "trtexec"
    tool.write_text(TRTEXEC)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    engines = load("engines")
    assert engines.ask_trtexec(tmp_path / "engine.plan", FULL) == {
        "version": "10.3.0",
        "latency_ms": {"min": 0.71, "median": 0.74},
        "compute_ms": {"min": 0.52, "median": 0.53},
    }
    tool.write_text("#!/bin/sh\necho 'no such engine' >&2; exit 3\n")
    assert engines.ask_trtexec(tmp_path / "engine.plan", FULL) == {"reason": "trtexec ended with 3: no such engine"}
    assert engines.ask_trtexec(tmp_path / "engine.plan", RTX) == {"reason": "trtexec is not installed"}


def test_every_command_of_the_proof_has_the_options_it_is_given(scripts: None, tmp_path: Path) -> None:
    options = argparse.Namespace(output=tmp_path / "g.json", models=["cmt_ti"], modelopt=None, seconds="1", only="x")
    verbs = {verb.__name__: set(inspect.signature(verb).parameters) for verb in pipeline.COMMANDS}
    asked, gpu = 0, load("gpu")
    assert tuple(name for name, _, _ in gpu.steps(options)) == gpu.STEPS
    for _, words, _ in gpu.steps(options):
        if "edgehybrid" in words:
            verb, *rest = words[words.index("edgehybrid") + 1 :]
            given = {word.removeprefix("--").replace("-", "_") for word in rest if word.startswith("--")}
            assert given - {"json", "quiet"} <= verbs[verb]
            asked += 1
        else:
            assert (FOLDER.parent / words[-1]).exists() or any(Path(word).is_file() for word in words[1:])
    assert asked == 5


def pointwise(factors: Sequence[float], limit: float = np.inf, noise: float = 0, offset: float = 0) -> Graph:
    """Three channels, each cut at `limit`, with the same noise in every image, through a convolution of its own."""
    net = SingleNet(1, 3, 2, 2)
    weight = net.const(np.array(factors, np.float32).reshape(3, 1, 1, 1))
    bias = net.const(np.full(3, offset, np.float32))
    cut = net.op("Clip", "input", net.const(np.float32(-limit)), net.const(np.float32(limit)))
    pattern = net.const(noise * np.array([[1, -1], [-1, 1]], np.float32))
    return net.graph(net.op("Conv", net.op("Add", cut, pattern), weight, bias, group=3))


def test_layers_are_compared_up_to_factors_and_constants_per_channel_and_by_image(scripts: None) -> None:
    """A factor or a constant per channel is no noise. Cutting a loud image weighs more in the sum over all."""
    quantizers = load("quantizers")
    images = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).clip(-3, 3).astype(np.float32)
    images[0] *= 4
    reference = pointwise([1, 1, 1])
    (name,) = (name_of(node.outputs[0]) for node in reference.nodes("Conv"))
    scaled = quantizers.layer_sqnr(reference, pointwise([2, 0.5, 1]), [name], images)
    assert min(scaled["together"][0], scaled["image_by_image"][0]) > 150  # what float64 leaves of equal sums
    moved = quantizers.layer_sqnr(reference, pointwise([1, -2, 1], offset=3.0), [name], images)
    assert moved["together"][0] > 120
    assert moved["image_by_image"][0] > 120
    cut = quantizers.layer_sqnr(reference, pointwise([1, 1, 1], limit=1.5), [name], images)
    assert 3 < cut["together"][0] + 3 < cut["image_by_image"][0] < 25
    images[0] /= 1e6  # now its output is noise alone, and must not decide the factors of the others
    noisy = quantizers.layer_sqnr(reference, pointwise([1, 1, 1], noise=0.01), [name], images)
    assert 10 < noisy["image_by_image"][0] < noisy["together"][0]
    lead = quantizers.lead(scaled["together"], cut["together"], [name])
    assert lead["ours_worst_layer"] == name
    assert lead["ours_worst_layer_db"] == lead["ours_better_by_db"] > 180
