"""Windows are added up to maps by views where they lie side by side, else by a transposed convolution."""

import numpy as np
import pytest
import torch

from edgehybrid import rewrites
from edgehybrid.graph import Graph, values
from edgehybrid.graph.adoption import adopt
from tests.exports import export
from tests.rewrites.net import Net, ops, rewrite, sites
from tests.single import SingleNet, draw, run

FOLDS = [
    # sides, kernel, attributes, number of windows
    ((6, 4), (2, 2), {"strides": [2, 2]}, 6),
    ((6, 4), (3, 1), {"strides": [3, 1]}, 8),
    ((7, 5), (2, 2), {"strides": [2, 2]}, 6),  # a row and a column are left over
    ((7, 6), (3, 3), {"strides": [2, 2], "pads": [1] * 4}, 12),
    ((7, 6), (3, 2), {}, 25),
    ((8, 9), (2, 3), {"dilations": [2, 2], "strides": [3, 2]}, 6),
    ((6, 4), (2, 2), {"strides": [2, 2], "pads": [0, 0, 0, 2]}, 9),
]


@pytest.mark.parametrize(("sides", "kernel", "attributes", "count"), FOLDS)
def test_windows_are_added_up_as_col2im_does(
    sides: tuple[int, int], kernel: tuple[int, int], attributes: dict[str, list[int]], count: int
) -> None:
    """In ONNX Runtime, as ONNX's reference has no transposed convolution of groups."""
    net = SingleNet(2, 3 * kernel[0] * kernel[1], count, opset=18)
    before = net.graph(net.op("Col2Im", "input", net.ints(*sides), net.ints(*kernel), **attributes))
    after = fold(before)
    side_by_side = sides == (6, 4) and "pads" not in attributes
    assert ops(after) == (["Reshape", "Transpose", "Reshape"] if side_by_side else ["Reshape", "ConvTranspose"]) + [
        "Identity"
    ]
    x = draw(before)
    np.testing.assert_allclose(run(after, x)[0], run(before, x)[0], rtol=1e-6, atol=1e-6)


def test_a_map_that_is_an_output_keeps_its_name() -> None:
    net = Net(2, 12, 6, opset=18)
    before = net.graph(net.op("Col2Im", "input", net.ints(6, 4), net.ints(2, 2), strides=[2, 2]))
    after, n = rewrite(before, "fold")
    assert n == 1
    assert after.outputs == before.outputs


def test_lines_are_left_alone() -> None:
    """TensorRT could not compute them in any form known here; nothing on images makes them."""
    net = Net(2, 6, 4, opset=18)
    assert sites(net.graph(net.op("Col2Im", "input", net.ints(5), net.ints(2), strides=[1])), "fold") == 0


def fold(graph: Graph) -> Graph:
    after, lines = rewrites.apply(graph, only=["fold"])
    assert lines == ("fold: 1 site",)
    return after


def test_what_torch_writes_of_fold(tmp_path) -> None:
    """MobileViTv2 of Hugging Face cuts maps into patches of 2 x 2 positions and puts them together again."""

    class Patches(torch.nn.Module):
        def forward(self, x):
            windows = torch.nn.functional.unfold(x, 2, stride=2)
            return torch.nn.functional.fold(windows.relu(), x.shape[2:], 2, stride=2)

    path = tmp_path / "patches.onnx"
    export(Patches().eval(), torch.zeros(1, 3, 8, 12), path, dynamo=True)
    before = adopt(path, batch=1)
    after, _ = rewrites.apply(before)
    assert "Col2Im" in ops(before)
    assert set(ops(after)) == {"Gather", "Reshape", "Transpose", "Relu"}
    check_same(before, after)


def check_same(before: Graph, after: Graph) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 12)).astype(np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])
    assert len({v.name for v in values(after)}) == len(list(values(after)))
