"""What is made of a user's file is held against the file itself."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgehybrid.errors import EdgeHybridError, GraphError, StageError
from edgehybrid.graph.adoption import adopt, open_unchecked
from edgehybrid.runtime import ort
from edgehybrid.runtime.ort import OrtRunner
from edgehybrid.stages.agreement import check_agreement
from tests.graph.test_adoption import channels_last, make


@pytest.fixture
def write(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    def save(model: onnx.ModelProto) -> Path:
        path = tmp_path / "net.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return save


@pytest.mark.parametrize(
    "model",
    [make(), make(opset=9), make((2, 3, 8, 8)), channels_last(("n", 8, 8, 3), scaled=True)],
    ids=["newest", "old", "two images", "channels last"],
)
def test_the_same_network_agrees(write: Callable[[onnx.ModelProto], Path], model: onnx.ModelProto) -> None:
    path = write(model)
    check_agreement(path, adopt(path))


@pytest.mark.parametrize("name", ["kernel", "offset"])
def test_another_network_does_not(write: Callable[[onnx.ModelProto], Path], name: str) -> None:
    model = make()
    path = write(model)
    graph = adopt(path)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), name))
    with pytest.raises(StageError, match="computes something else") as caught:
        check_agreement(write(model), graph)
    assert "of its largest value" in caught.value.why


@pytest.mark.parametrize("factor", [1e30, np.nan])
def test_a_network_whose_outputs_are_not_finite_is_refused(
    write: Callable[[onnx.ModelProto], Path], factor: float
) -> None:
    model = make()
    for tensor in model.graph.initializer:
        if tensor.name in ("kernel", "wide"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    path = write(model)
    with pytest.raises(GraphError, match=r"output 'class scores' of .* is not finite") as caught:
        check_agreement(path, adopt(path))
    assert caught.value.why.startswith("5 of its 5 values are NaN or infinite")


@pytest.mark.parametrize("error", [ValueError("no kernel"), MemoryError("no room")])
def test_an_error_names_the_users_file_not_a_temporary_one(
    write: Callable[[onnx.ModelProto], Path], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(make())
    graph = adopt(path)

    def fail(runner: OrtRunner, feeds: object) -> None:
        raise ort._run_error(runner.path, error)

    monkeypatch.setattr(OrtRunner, "run", fail)
    with pytest.raises(EdgeHybridError) as caught:
        check_agreement(path, graph)
    assert str(path) in caught.value.what
    assert "before.onnx" not in str(caught.value)
    assert "after.onnx" not in str(caught.value)


def test_the_command_that_checks_a_file_names_it(write: Callable[[onnx.ModelProto], Path]) -> None:
    model = make()
    model.graph.node[1].input[0] = "nowhere"
    path = write(model)
    for take in (adopt, open_unchecked):
        with pytest.raises(GraphError, match="does not fit into the graph") as caught:
            take(path)
        assert f"`check-model {path}`" in caught.value.fix
