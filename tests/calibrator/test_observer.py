"""Observing: counts of the network's own activations, the same whatever the order, batching or sharding of images."""

import weakref
import zlib
from collections.abc import Iterator

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgehybrid import graph as graphs
from edgehybrid.calibrator import Observations, observe
from edgehybrid.calibrator.histogram import EDGES, stride_of
from edgehybrid.errors import ImagesError, StageError
from edgehybrid.graph import Graph
from tests.calibrator.graphs import make_graph, make_images, make_net

TENSORS = ("input", "conv", "relu", "tokens", "sum", "pooled")


def same(first: Observations, second: Observations) -> bool:
    return (
        first.images == second.images
        and first.tensors.keys() == second.tensors.keys()
        and all(
            h.amax == second.tensors[n].amax
            and h.peaks == second.tensors[n].peaks
            and np.array_equal(h.counts, second.tensors[n].counts)
            for n, h in first.tensors.items()
        )
    )


def split(images: NDArray[np.float32], size: int) -> Iterator[NDArray[np.float32]]:
    for i in range(0, len(images), size):
        yield images[i : i + size]


def inputs_of_products(graph: Graph) -> list[str]:
    """Computed inputs of Conv, MatMul, Gemm and Add."""
    names = {
        graphs.name_of(value)
        for node in graph.nodes("Conv", "MatMul", "Gemm", "Add")
        for value in node.inputs
        if value is not None and graphs.constant(value) is None
    }
    return sorted(names)


def test_order_batching_and_sharding_of_images_do_not_change_a_bit(cmt_ti_graph: Graph) -> None:
    images, tensors = make_images(9, size=64), inputs_of_products(cmt_ti_graph)
    assert len(tensors) > 150
    whole = observe(cmt_ti_graph, [images], tensors, threads=2)
    order = np.random.default_rng(1).permutation(9)
    assert same(whole, observe(cmt_ti_graph, split(images[order], 4), tensors, threads=2))
    shards = [observe(cmt_ti_graph, split(part, 1), tensors, threads=2) for part in (images[5:], images[:5])]
    assert same(whole, shards[0].merge(shards[1]))


def test_the_counts_are_those_of_the_tensors_large_ones_every_few_values(cmt_ti_graph: Graph) -> None:
    images = make_images(3, size=64)
    reference = cmt_ti_graph.clone()
    rearranged = {"Reshape", "Transpose"}  # observed at their source
    wanted = set(inputs_of_products(reference))
    tapped = [
        value
        for node in reference.nodes()
        for value in node.outputs
        if value.name in wanted and node.op_type not in rearranged
    ]
    reference.body.outputs.clear()
    reference.body.outputs.extend(tapped)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(reference.to_bytes(), options, providers=["CPUExecutionProvider"])
    tensors = list(reference.outputs)
    seen = observe(cmt_ti_graph, [images], [*tensors, "input"], threads=1)
    assert len(tensors) > 100
    runs = [session.run(tensors, {"input": image[np.newaxis]}) for image in images]
    strides = set()
    for name, arrays in zip(tensors, zip(*runs, strict=True), strict=True):
        stride = stride_of(arrays[0].shape)
        strides.add(stride)
        counted = [
            array.reshape(-1)[zlib.crc32(image) % stride :: stride] for array, image in zip(arrays, images, strict=True)
        ]
        bins = np.concatenate(counted).view(np.uint32) >> 16 & 0x7FFF
        assert np.array_equal(seen.tensors[name].counts, stride * np.bincount(bins, minlength=1 << 15))
        assert seen.tensors[name].amax == max(np.abs(array).max() for array in arrays)
    assert 1 in strides
    assert len(strides) > 1
    assert seen.tensors["input"].amax == np.abs(images).max()


@pytest.mark.parametrize("size", [8, 96])
def test_a_graph_of_batch_2_sees_what_one_of_batch_1_sees_with_an_odd_image_left_over(size: int) -> None:
    images = np.round(make_images(5, size=size))  # with integers and powers of two every sum is exact
    single, double = (make_exact_net(batch, size) for batch in (1, 2))
    assert same(observe(single, [images], ("input", "y", "z")), observe(double, [images], ("input", "y", "z")))


def test_every_image_has_its_own_peak() -> None:
    images = np.ones((5, 3, 8, 8), np.float32) * np.array([1, 16, 1, 0, 2], np.float32).reshape(-1, 1, 1, 1)
    for batch in (1, 2):
        seen = observe(make_net(batch), [images], ("input",)).tensors["input"]
        assert sorted(EDGES[number] for number in seen.peaks) == [0, 1, 2, 16]
        assert sum(seen.peaks.values()) == 5
        assert 1 <= seen.median_peak <= 1.01  # of the four that are not dark


def make_exact_net(batch: int, size: int) -> Graph:
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["y"], "conv"),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
        helper.make_node("Conv", ["z", "kernel2"], ["out"], "conv2"),
    ]
    random = np.random.default_rng(0)
    weights = {
        "kernel": np.round(4 * random.normal(size=(4, 3, 3, 3))).astype(np.float32) / 4,
        "kernel2": np.ones((2, 4, 1, 1), np.float32),
    }
    return make_graph(nodes, weights, (batch, 3, size, size), "out")


def test_an_activation_that_depends_on_the_place_in_the_batch_is_refused() -> None:
    nodes = [
        helper.make_node("Add", ["input", "places"], ["y"], "add"),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
    ]
    net = make_graph(nodes, {"places": np.array([[[[0]]], [[[1]]]], np.float32)}, (2, 3, 8, 8), "z")
    with pytest.raises(StageError, match="place of an image") as caught:
        observe(net, [make_images(3)], ["y"])
    assert "batch 1" in caught.value.fix


def test_a_rearranged_tensor_has_the_counts_of_its_source() -> None:
    seen = observe(make_net(1), [make_images(2)], ("relu", "tokens", "columns"))
    assert seen.tensors["tokens"].counts.sum() == 2 * 16 * 64
    assert np.array_equal(seen.tensors["tokens"].counts, seen.tensors["relu"].counts)
    assert list(seen.tensors) == ["relu", "tokens", "columns"]


def test_the_graph_is_not_modified_and_its_outputs_may_be_observed() -> None:
    net = make_net(1)
    before = net.to_bytes()
    assert observe(net, [make_images(2)], ("logits", "logits")).tensors["logits"].counts.sum() == 2 * 5
    assert observe(net, [make_images(2)], ("input",)).images == 2
    assert net.to_bytes() == before


def test_progress_is_told_the_number_of_images() -> None:
    told: list[int] = []
    observe(make_net(2), split(make_images(5), 3), ("relu",), progress=told.append)
    assert told == [2, 4, 5]


def test_images_are_let_go_as_they_are_seen() -> None:
    yielded: list[weakref.ref[NDArray[np.float32]]] = []
    alive: list[int] = []

    def batches() -> Iterator[NDArray[np.float32]]:
        for seed in range(20):
            alive.append(sum(reference() is not None for reference in yielded))
            batch = make_images(2, seed=seed)
            yielded.append(weakref.ref(batch))
            yield batch
            del batch

    assert observe(make_net(1), batches(), TENSORS).images == 40
    assert max(alive) <= 1


@pytest.mark.parametrize("tensor", ["nothing", "kernel", "flat"])
def test_what_is_not_an_activation_cannot_be_observed(tensor: str) -> None:
    with pytest.raises(ValueError, match=tensor):
        observe(make_net(1), [make_images(1)], [tensor])


@pytest.mark.parametrize(
    "batch", [make_images(2, size=9), make_images(2).astype(np.float64), make_images(2)[0], make_images(2)[:, :1]]
)
def test_images_that_do_not_fit_are_refused(batch: NDArray[np.float32]) -> None:
    with pytest.raises(ImagesError, match="do not fit"):
        observe(make_net(1), [batch], TENSORS)


def test_no_images_are_refused() -> None:
    for batches in ([], [make_images(3)[:0]]):
        with pytest.raises(ImagesError, match="no images"):
            observe(make_net(1), batches, TENSORS)


def test_an_activation_that_is_not_finite_names_tensor_node_and_image() -> None:
    images = make_images(4)
    images[2] *= 1e38
    with pytest.raises(StageError, match="'relu' is not finite") as caught:
        observe(make_net(1, gain=1e3), [images], ("relu", "sum"))
    assert caught.value.exit_code == 5
    assert "Relu node 'act'" in caught.value.why
    assert "image 3" in caught.value.why


def test_a_nan_in_the_weights_is_found_on_the_first_image() -> None:
    with pytest.raises(StageError, match="'conv' is not finite") as caught:
        observe(make_net(1, gain=np.nan), [make_images(4)], ("sum", "conv"))
    assert "Conv node 'stem' gave 1024 NaN and 0 infinite of 1024 values on image 1" in caught.value.why


def test_a_nan_in_an_image_blames_the_input() -> None:
    images = make_images(4)
    images[1, 0, 0, 0] = np.nan
    with pytest.raises(StageError, match="'input' is not finite") as caught:
        observe(make_net(2), [images], TENSORS)
    assert "the input gave 1 NaN" in caught.value.why
    assert "images 1 to 2" in caught.value.why


def test_a_graph_that_onnxruntime_cannot_load_or_run_is_a_failed_stage() -> None:
    weights = {"index": np.array([99], np.int64), "matrix": np.ones((5, 5), np.float32)}
    runs_wrong = [helper.make_node("Gather", ["input", "index"], ["y"], "gather", axis=3)]
    loads_wrong = [
        helper.make_node("Relu", ["input"], ["y"], "relu"),
        helper.make_node("MatMul", ["y", "matrix"], ["z"], "mul"),
    ]
    for nodes in (runs_wrong, loads_wrong):
        net = make_graph(nodes, weights, (1, 3, 8, 8), "y")
        with pytest.raises(StageError, match="ONNX Runtime"):
            observe(net, [make_images(1)], ["y"])
