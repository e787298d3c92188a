"""The stage that quantizes: one graph alone is the twin of both, and what was read is not read again."""

from pathlib import Path

import pytest

from edgehybrid import calibrator, placement, stages
from edgehybrid.graph import Graph, load
from edgehybrid.records import Ranges
from tests.single import draw
from tests.tuner import nets


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))


def ranges_of(graph: Graph) -> Ranges:
    tensors = sorted({d.tensor for d in placement.plan(graph, "fp32").decisions if d.kind == "activation"})
    seen = calibrator.observe(graph, [draw(graph, 0)], tensors, threads=1)
    return calibrator.choose(seen, "mse", images=1, sha256="")


def test_the_graph_alone_is_the_one_made_with_its_typed_twin(tmp_path: Path) -> None:
    graph, path, run = nets.rectified(), tmp_path / "float.onnx", stages.Run()
    path.write_bytes(graph.to_bytes())
    ranges = ranges_of(graph)
    both = stages.quantize(run, path, "int8", ranges, None)
    alone, plan = stages.quantize_alone(run, path, ranges)
    assert plan.decisions == both.plan.decisions
    assert alone.read_bytes() == both.runnable.read_bytes()
    assert [stage.cached for stage in run.stages] == [False, False]
    assert load(alone).to_bytes() != load(both.typed).to_bytes()


def test_a_run_reads_a_graph_once_and_holds_one(tmp_path: Path) -> None:
    run, paths = stages.Run(), [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path, graph in zip(paths, (nets.rectified(), nets.gated()), strict=True):
        path.write_bytes(graph.to_bytes())
    first = run.open(paths[0])
    assert run.open(paths[0]) is first
    assert run.open(paths[1]).to_bytes() == paths[1].read_bytes()
    assert run.open(paths[0]) is not first
    run.keep(paths[1], first)
    assert run.open(paths[1]) is first
