"""Histograms count exactly or evenly, merge by addition and survive the disk."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgehybrid.calibrator.histogram import (
    BINS,
    EDGES,
    FINITE,
    SAMPLED,
    STAGE,
    Histogram,
    Tally,
    stride_of,
)
from edgehybrid.calibrator.observations import Observations
from edgehybrid.errors import ArtifactError

FLOATS = hnp.arrays(
    np.float32, st.integers(1, 200), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


def tally(*arrays: NDArray[np.float32]) -> Histogram:
    counter = Tally()
    for array in arrays:
        counter.add(array)
    return counter.histogram()


def same(first: Histogram, second: Histogram) -> bool:
    return np.array_equal(first.counts, second.counts) and first.amax == second.amax


def alike(first: Histogram, second: Histogram) -> bool:
    return same(first, second) and first.peaks == second.peaks


def observed(*arrays: NDArray[np.float32]) -> Observations:
    return Observations({f"tensor {i}": tally(array) for i, array in enumerate(arrays)}, 3)


@settings(deadline=None)
@given(FLOATS)
def test_every_value_is_counted_in_the_bin_whose_edges_hold_it(array: NDArray[np.float32]) -> None:
    magnitudes = np.abs(array).astype(np.float64)
    expected = np.bincount(np.searchsorted(EDGES, magnitudes, side="right") - 1, minlength=BINS)
    assert np.array_equal(tally(array).counts, expected)


@settings(deadline=None)
@given(FLOATS)
def test_the_maximum_is_exact(array: NDArray[np.float32]) -> None:
    assert tally(array).amax == float(np.abs(array).max())


@settings(deadline=None)
@given(FLOATS, FLOATS, FLOATS)
def test_merging_is_commutative_associative_and_equal_to_one_pass(
    a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]
) -> None:
    one, two, three = tally(a), tally(b), tally(c)
    assert alike(one.merge(two), two.merge(one))
    assert alike(one.merge(two).merge(three), one.merge(two.merge(three)))
    assert alike(one.merge(two).merge(three), tally(c, a, b))
    assert same(one.merge(two).merge(three), tally(np.concatenate((c, a, b))))


def test_tensors_larger_than_the_working_memory_are_counted_whole() -> None:
    array = np.random.default_rng(0).normal(size=(3, 100_000)).astype(np.float32)
    expected = np.bincount(array.reshape(-1).view(np.uint32) >> 16 & 0x7FFF, minlength=BINS)
    assert np.array_equal(tally(array).counts, expected)
    assert np.array_equal(tally(*array).counts, expected)


def test_tallies_share_working_memory_but_no_counts() -> None:
    arrays = np.random.default_rng(0).normal(size=(2, 3, STAGE // 2)).astype(np.float32)
    scratch = np.empty(STAGE, np.intp)
    tallies = [Tally(scratch=scratch), Tally(scratch=scratch)]
    for pair in arrays.swapaxes(0, 1):
        for counter, array in zip(tallies, pair, strict=True):
            counter.add(array)
    assert all(same(counter.histogram(), tally(each)) for counter, each in zip(tallies, arrays, strict=True))


@settings(deadline=None)
@given(FLOATS, st.integers(1, 9))
def test_samples_of_every_phase_together_are_the_whole_and_each_knows_the_maximum(
    array: NDArray[np.float32], stride: int
) -> None:
    parts = []
    for phase in range(stride):
        counter = Tally(stride)
        counter.add(array, phase=phase + stride * phase)
        parts.append(counter.histogram())
    whole = tally(array)
    assert np.array_equal(sum(part.counts for part in parts), stride * whole.counts)
    assert {part.amax for part in parts} == {whole.amax}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 300), max_size=3), st.integers(0, 99))
@example([244, 265, 290], 0)  # the smallest stride without a common factor would meet 124 of the 265
@example([228, 244, 255], 0)
def test_a_sample_takes_no_more_than_it_may_and_the_like_of_every_channel_row_and_token(
    shape: list[int], phase: int
) -> None:
    stride, size = stride_of(tuple(shape)), int(np.prod(shape))
    taken = np.zeros(size, bool)
    taken[phase % stride :: stride] = True
    assert size / stride <= SAMPLED
    assert size > SAMPLED or taken.all()
    for axis, length in enumerate(shape):
        share = size / length / stride
        found = np.moveaxis(taken.reshape(shape), axis, 0).reshape(length, -1).sum(axis=1)
        if share >= 8:
            assert 0.7 * share <= found.min() <= found.max() <= 1.4 * share


@settings(deadline=None)
@given(st.lists(st.floats(2.0**-60, 2.0**60, width=32), min_size=1, max_size=40))
def test_the_median_peak_is_that_of_the_images_which_are_not_zero_everywhere(peaks: list[float]) -> None:
    images = np.zeros((len(peaks) + 3, 2, 5), np.float32)
    images[: len(peaks), 1, 3] = np.negative(peaks)
    counter = Tally()
    for image in images:
        counter.add(image)
    found = counter.histogram()
    assert sum(found.peaks.values()) == len(images)
    assert np.sort(peaks)[(len(peaks) - 1) // 2] == pytest.approx(found.median_peak, rel=1 / 128)
    assert found.amax == max(peaks)


def test_images_that_cannot_be_told_apart_have_no_peaks() -> None:
    counter = Tally()
    counter.add(np.ones(6, np.float32), one=False)
    assert (dict(counter.histogram().peaks), counter.histogram().median_peak) == ({}, 0)


def test_bins_are_at_most_a_128th_of_their_value_wide() -> None:
    normal = EDGES[1 << 7 : FINITE]
    assert (np.diff(normal) / normal[:-1] <= 1 / 128).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    array = np.ones(100, np.float32)
    array[57] = value
    with pytest.raises(FloatingPointError):
        tally(array)


def test_copies_count_once() -> None:
    array = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    counter = Tally()
    counter.add(array)
    counter.add(np.stack([array + 1] * 4), copies=4)
    assert alike(counter.histogram(), tally(array, array + 1))


def test_copies_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="different activations"):
        Tally().add(np.array([1, 2], np.float32), copies=2)


def test_observations_merge_tensor_by_tensor() -> None:
    a, b = np.arange(5, dtype=np.float32), np.arange(3, 9, dtype=np.float32)
    merged = observed(a, b).merge(observed(b, b))
    assert merged.images == 6
    assert same(merged.tensors["tensor 0"], tally(np.concatenate((a, b))))
    assert alike(merged.tensors["tensor 0"], tally(a, b))


def test_observations_of_different_tensors_do_not_merge() -> None:
    ones = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="tensor 1 is only in one"):
        observed(ones).merge(observed(ones, ones))


def test_saved_observations_load_unchanged_and_equal_ones_give_equal_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    seen = observed(random.normal(size=5000).astype(np.float32), np.zeros(7, np.float32))
    seen.save(tmp_path / "a.npz")
    loaded = Observations.load(tmp_path / "a.npz")
    assert loaded.images == seen.images
    assert loaded.tensors.keys() == seen.tensors.keys()
    assert all(alike(loaded.tensors[name], seen.tensors[name]) for name in seen.tensors)
    Observations(dict(reversed(seen.tensors.items())), 3).save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_damaged_file_is_refused_wherever_the_damage_is(tmp_path: Path) -> None:
    path, random = tmp_path / "seen.npz", np.random.default_rng(0)
    seen = observed(random.normal(size=500).astype(np.float32))
    seen.save(path)
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 20).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError):
            Observations.load(path)
    refused = 0
    for at in random.integers(0, len(whole), 200):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(random.integers(8))]) + whole[at + 1 :])
        try:
            loaded = Observations.load(path)
        except ArtifactError:
            refused += 1
        else:  # the bit was one that nobody reads, such as a time stamp in the archive
            assert same(loaded.tensors["tensor 0"], seen.tensors["tensor 0"])
    assert refused > 100


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", np.array("edgehybrid.observations/999")),
        ("images", np.array(0)),
        ("names", np.array(["a", "a"])),
        ("names", np.array([b"a", b"b"])),
        ("amax", np.array([np.nan, 2.0], np.float32)),
        ("amax", np.array([0.5, 2.0], np.float32)),
        ("sizes", np.array([2, 2])),
        ("sizes", np.array([-1, 4])),
        ("bins", np.array([0x3F80, 0x4000, 0x4000], np.uint16)),
        ("bins", np.array([0x3F80, 0xFFFF, 0x4000], np.uint16)),
        ("counts", np.array([1, 0, 1])),
        ("counts", np.array([1, 1])),
        ("counts", np.array([1.0, 1.0, 1.0])),
        ("counts", np.array([{}, {}, {}], object)),
        ("sizes", np.array([0, 3])),
        ("peak_sizes", np.array([2])),
        ("peak_bins", np.array([0x3F81, 0x4000], np.uint16)),
        ("peak_counts", np.array([1, 0])),
        ("peak_counts", np.array([1, 2])),
    ],
)
def test_fields_that_contradict_each_other_are_refused(tmp_path: Path, field: str, value: NDArray[np.generic]) -> None:
    fields: dict[str, NDArray[np.generic]] = {
        "schema": np.array("edgehybrid.observations/2"),
        "images": np.array(1),
        "names": np.array(["a", "b"]),
        "amax": np.array([1.0, 2.0], np.float32),
        "sizes": np.array([1, 2]),
        "bins": np.array([0x3F80, 0x3F80, 0x4000], np.uint16),
        "counts": np.array([5, 6, 7]),
        "peak_sizes": np.array([1, 1]),
        "peak_bins": np.array([0x3F80, 0x4000], np.uint16),
        "peak_counts": np.array([1, 1]),
    }
    np.savez(tmp_path / "good.npz", **fields)
    assert Observations.load(tmp_path / "good.npz").tensors["b"].amax == 2
    np.savez(tmp_path / "bad.npz", **{**fields, field: value})
    with pytest.raises(ArtifactError, match="calibrate again"):
        Observations.load(tmp_path / "bad.npz")


def test_what_is_not_observations_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    (tmp_path / "array.npy").write_bytes(buffer.getvalue())
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for name in ("array.npy", "other.zip", "missing.npz"):
        with pytest.raises(ArtifactError):
            Observations.load(tmp_path / name)
