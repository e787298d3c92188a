"""A calibration file says again what it holds, merges to what one pass gives, and refuses what does not fit."""

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehybrid.calibrator import Calibration, choose, merge, observe, read_document, to_document
from edgehybrid.calibrator.document import digest_of
from edgehybrid.errors import ArtifactError, NotFoundError, UsageError
from edgehybrid.records import Method, Preprocess, Ranges
from tests.single import SingleNet

METHODS: tuple[Method, ...] = ("mse", "minmax", "percentile", "entropy")
COUNT = 7


def network() -> SingleNet:
    net = SingleNet(1, 3, 4, 4)
    net.op("Relu", net.conv("input", 3, 8, 3))
    return net


NET = network()
GRAPH = NET.graph(NET.last_outputs()[0])
TENSORS = ["input", NET.last_outputs()[0]]
IMAGES = np.random.default_rng(0).standard_normal((COUNT, 3, 4, 4)).astype(np.float32)
DIGESTS = [hashlib.sha256(image.tobytes()).digest() for image in IMAGES]


def calibrate(indexes: list[int], method: Method = "mse") -> Calibration:
    """What `edgehybrid calibrate` would write for some of the images."""
    seen = observe(GRAPH, [IMAGES[indexes]], TENSORS)
    digests = tuple(sorted(DIGESTS[i].hex() for i in indexes))
    ranges = choose(seen, method, images=len(indexes), sha256=digest_of(digests))
    return Calibration(ranges, GRAPH.fingerprint(), Preprocess(4), digests, seen)


def bare(calibration: Calibration) -> Calibration:
    """The same without histograms."""
    return replace(calibration, observations=None)


@pytest.mark.parametrize("method", METHODS)
def test_a_file_says_again_what_was_written(method: Method, tmp_path: Path) -> None:
    made = calibrate([0, 1, 2], method)
    path = tmp_path / "calibration.json"
    path.write_bytes(to_document(made))
    found = read_document(path)
    assert to_document(found) == path.read_bytes()
    assert (found.ranges, found.digests, found.graph) == (made.ranges, made.digests, made.graph)
    document = json.loads(path.read_bytes())
    assert document["schema"] == "edgehybrid.calibration/1"
    assert document["tensors"] == dict(made.ranges.tensors)


@given(
    st.permutations(range(COUNT)), st.lists(st.integers(1, COUNT - 1), min_size=1, max_size=3, unique=True), st.data()
)
@settings(max_examples=20, deadline=None)
def test_any_split_in_any_order_merges_to_the_bytes_of_one_pass(
    order: list[int], cuts: list[int], data: st.DataObject
) -> None:
    method = data.draw(st.sampled_from(METHODS))
    edges = [0, *sorted(cuts), COUNT]
    shards = [order[a:b] for a, b in itertools.pairwise(edges)]
    parts = {f"part {i}": calibrate(shard, method) for i, shard in enumerate(shards)}
    assert to_document(merge(parts, None)) == to_document(calibrate(list(range(COUNT)), method))


def test_merged_histograms_take_any_method() -> None:
    parts = {"a": calibrate([0, 1, 2], "mse"), "b": calibrate([3, 4, 5, 6], "minmax")}
    with pytest.raises(UsageError, match="different methods"):
        merge(parts, None)
    assert to_document(merge(parts, "entropy")) == to_document(calibrate(list(range(COUNT)), "entropy"))


def test_largest_values_merge_without_histograms_and_nothing_else_does() -> None:
    whole = calibrate(list(range(COUNT)), "minmax")
    merged = merge({"a": bare(calibrate([0, 1], "minmax")), "b": bare(calibrate([2, 3, 4, 5, 6], "minmax"))}, None)
    assert merged.ranges == whole.ranges
    with pytest.raises(ArtifactError, match="b cannot be merged") as caught:
        merge({"a": calibrate([0, 1]), "b": bare(calibrate([2, 3]))}, None)
    assert "only minmax merges so, not mse" in caught.value.why
    with pytest.raises(ArtifactError, match="cannot be merged"):
        merge({"a": bare(calibrate([0, 1], "percentile")), "b": bare(calibrate([2, 3], "minmax"))}, "minmax")


def test_what_is_uneven_in_a_part_without_histograms_stays_so_of_the_merged_range() -> None:
    loud, even, both = (bare(calibrate(each, "minmax")) for each in ([0, 1], [2, 3], [4, 5]))
    name = TENSORS[1]

    def changed(part: Calibration, amax: float, uneven: dict[str, float]) -> Calibration:
        tensors = {**part.ranges.tensors, name: amax}
        return replace(part, ranges=replace(part.ranges, tensors=tensors, uneven=uneven))

    parts = {"a": changed(loud, 20, {name: 6}), "b": changed(even, 4, {}), "c": changed(both, 10, {name: 8})}
    assert merge(parts, None).ranges.uneven == {name: 4.0}
    assert merge({"b": parts["b"], "e": bare(calibrate([6], "minmax"))}, None).ranges.uneven == {}


@pytest.mark.parametrize(
    ("change", "what"),
    [({"graph": "another"}, "networks"), ({"preprocess": Preprocess(4, 1.0)}, "preprocessing")],
)
def test_parts_that_do_not_belong_together_are_refused(change: dict[str, object], what: str) -> None:
    other = replace(calibrate([3, 4]), **change)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError) as caught:
        merge({"a": calibrate([0, 1]), "b": other}, None)
    assert what in caught.value.why


def test_parts_that_would_count_double_or_tell_too_little_are_refused() -> None:
    part = calibrate([0, 1])
    with pytest.raises(UsageError, match="given twice"):
        merge({"a": part, "copy of a": part}, None)
    with pytest.raises(UsageError, match="some images are given twice") as caught:
        merge({"a": part, "b": calibrate([1, 2, 3]), "c": calibrate([1, 4])}, None)
    assert caught.value.why.startswith("2 images of 7 would count double")
    merge({"a": calibrate([0, 0, 1]), "b": calibrate([2, 3])}, None)  # one set that holds an image twice
    with pytest.raises(UsageError, match="nothing to merge"):
        merge({"a": part}, None)
    with pytest.raises(ArtifactError) as told:
        merge({"a": part, "bundle": replace(calibrate([2, 3]), digests=())}, None)
    assert "does not say which images" in told.value.why


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d | {"schema": "edgehybrid.report/1"},
        lambda d: d | {"histograms": "not base64!"},
        lambda d: d | {"histograms": d["histograms"][: len(d["histograms"]) // 8 * 4]},
        lambda d: d | {"images": 99},
        lambda d: d | {"method": "best"},
        lambda d: d | {"tensors": {"input": -1.0}},
        lambda d: d | {"tensors": {"input": 1.0}},
        lambda d: d | {"images": 0, "histograms": None},
        lambda d: d | {"exponent": 7},
        lambda d: d | {"tied": [["input", "nowhere"]]},
        lambda d: d | {"factors": {"input": "0 a 1"}},
        lambda d: d | {"factors": {"input": "0 9999 1"}},
        lambda d: d | {"offsets": {"input": "0 nan 1"}},
        lambda d: d | {"digests": ["zz", "zz"]},
        lambda d: d | {"uneven": {"nowhere": 3.0}},
        lambda d: d | {"uneven": {"input": -3.0}},
        lambda d: d | {"uneven": {"input": float("nan")}},
        lambda d: d | {"uneven": {"input": 1e30}},
        lambda d: {key: value for key, value in d.items() if key != "sha256"},
        lambda d: d | {"digests": [1, 2]},
        lambda d: [d],
    ],
)
def test_a_damaged_file_is_refused(damage: object, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(damage(json.loads(to_document(calibrate([0, 1]))))))  # type: ignore[operator]
    with pytest.raises(ArtifactError, match="is not a usable calibration file"):
        read_document(path)


def test_a_missing_file_and_one_that_is_no_json_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_document(tmp_path / "none.json")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(ArtifactError):
        read_document(tmp_path / "model.onnx")


def test_files_without_the_newer_fields_are_read(tmp_path: Path) -> None:
    """Version 1 began with ranges alone."""
    ranges = Ranges("mse", 8, "0" * 64, {"input": 1.5})
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"schema": "edgehybrid.calibration/1", **vars(ranges)}))
    found = read_document(path)
    assert (found.ranges, found.graph, found.preprocess, found.digests) == (ranges, "", None, ())
