"""An .npz is read row by row, checked first, and never unpickled."""

import contextlib
import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehybrid.dataset.archive import open_archive, rows
from edgehybrid.errors import ImagesError


def pixels(count: int = 6, height: int = 9, width: int = 11) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def save(path: Path, compressed: bool = True, **arrays: np.ndarray) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


class Canary:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("compressed", [True, False])
def test_rows_are_the_images_that_were_asked_for(tmp_path: Path, compressed: bool) -> None:
    x = pixels()
    archive = open_archive(save(tmp_path / "a.npz", compressed, x=x, y=np.arange(6)))
    assert archive.shape == x.shape
    assert archive.labels is not None
    assert archive.labels.tolist() == [0, 1, 2, 3, 4, 5]
    for chosen in ([0, 1, 2, 3, 4, 5], [1, 4], [5], []):
        found = list(rows(archive, chosen))
        assert len(found) == len(chosen)
        assert all(np.array_equal(row, x[index]) for row, index in zip(found, chosen, strict=True))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", ">i2"])
def test_any_integer_label_becomes_int64(tmp_path: Path, dtype: str) -> None:
    labels = open_archive(save(tmp_path / "a.npz", x=pixels(), y=np.arange(6).astype(dtype))).labels
    assert labels is not None
    assert (labels.dtype, labels.tolist()) == (np.int64, [0, 1, 2, 3, 4, 5])


def test_labels_are_optional(tmp_path: Path) -> None:
    assert open_archive(save(tmp_path / "a.npz", x=pixels())).labels is None


@pytest.mark.parametrize(
    ("arrays", "words", "mend"),
    [
        ({}, "found arrays nothing", "name x"),
        ({"images": pixels(), "labels": np.arange(6)}, "found arrays images, labels", "name x"),
        ({"x": pixels().astype(np.float32) / 255}, "float32", "uint8"),
        ({"x": pixels().astype(np.int64)}, "int64", "uint8"),
        ({"x": pixels()[..., 0]}, "grey", "numpy.repeat"),
        ({"x": pixels()[..., :1]}, "grey", "numpy.repeat"),
        ({"x": pixels().transpose(0, 3, 1, 2).copy()}, "channels first", "transpose"),
        ({"x": np.zeros((6, 9, 11, 4), np.uint8)}, "(6, 9, 11, 4)", "three channels"),
        ({"x": pixels()[0, 0]}, "(11, 3)", "three channels"),
        ({"x": np.uint8(3)}, "()", "three channels"),
        ({"x": pixels()[:0]}, "no images", "at least one"),
        ({"x": pixels(2, 4, 4)}, "4 x 4 px", "larger"),
        ({"x": np.asfortranarray(pixels())}, "column by column", "ascontiguousarray"),
        ({"x": pixels(), "y": np.arange(5)}, "(5,) beside 6", "one class number per image"),
        ({"x": pixels(), "y": np.arange(6)[:, None]}, "(6, 1)", "one class number per image"),
        ({"x": pixels(), "y": np.arange(6.0)}, "float64", "integers"),
        ({"x": pixels(), "y": np.array(list("abcdef"))}, "<U1", "integers"),
        ({"x": pixels(), "y": np.arange(6) - 1}, "-1", "from 0"),
        ({"x": pixels(), "y": np.ones(6, bool)}, "bool", "integers"),
    ],
    ids=range(19),
)
def test_what_does_not_fit_is_refused_with_the_remedy(
    tmp_path: Path, arrays: dict[str, np.ndarray], words: str, mend: str
) -> None:
    with pytest.raises(ImagesError) as caught:
        open_archive(save(tmp_path / "a.npz", **arrays))
    assert words in caught.value.why
    assert mend in caught.value.fix
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["x", "y"])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "trace"
    arrays = {"x": pixels(1), "y": np.zeros(1, int), name: np.array([Canary(trace)], object)}
    path = tmp_path / "a.npz"
    np.savez(path, allow_pickle=True, **arrays)
    with pytest.raises(ImagesError):
        open_archive(path)
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as loaded, contextlib.suppress(Exception):
        loaded[name]
    assert trace.exists(), "the canary would have sung"


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"nothing", b"\x93NUMPY\x01\0" + b"x" * 100):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ImagesError, match="cannot use"):
            open_archive(tmp_path / "a.npz")


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 9, 11, 3)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", buffer.getvalue() + bytes(1000))
    with pytest.raises(ImagesError, match="cannot use"):
        open_archive(tmp_path / "a.npz")


def test_damage_after_the_header_is_found_when_the_rows_are_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=pixels(40))
    archive = open_archive(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ImagesError, match="cannot use"):
        list(rows(archive, range(40)))


def test_another_file_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    archive = open_archive(save(tmp_path / "a.npz", x=pixels(6)))
    save(tmp_path / "a.npz", x=pixels(7))
    with pytest.raises(ImagesError) as caught:
        list(rows(archive, [0]))
    assert "changed" in caught.value.why


BYTES = io.BytesIO()
np.savez_compressed(BYTES, x=pixels(3), y=np.arange(3))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_are_images_or_an_error_for_the_user(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    broken = bytearray(BYTES.getvalue()[: data.draw(st.integers(0, len(BYTES.getvalue())) | st.just(1 << 30))])
    for place in data.draw(st.lists(st.integers(0, max(len(broken) - 1, 0)), max_size=3)) if broken else ():
        broken[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    path.write_bytes(broken)
    with contextlib.suppress(ImagesError):
        assert len(list(rows(open_archive(path), range(3)))) == 3


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=np.zeros((400, 64, 64, 3), np.uint8))
    tracemalloc.start()
    archive = open_archive(path)
    assert sum(int(row.sum()) for row in rows(archive, range(400))) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500_000  # of 4.9 MB
