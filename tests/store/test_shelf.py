"""Arrays on a shelf are the same arrays, and their file is gone with them."""

import gc
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehybrid.errors import ResourceError
from edgehybrid.store.shelf import Shelf


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def arrays() -> Mapping[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    shapes = {"/blocks.0/proj/Conv_output_0": (1, 7, 5), "file": (3, 0, 2), "": (2, 2, 2), "nan": (1, 1, 1)}
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    made["nan"][:] = np.nan
    return made


def test_a_shelf_gives_back_what_was_put_on_it() -> None:
    put = arrays()
    shelf = Shelf(put)
    assert list(shelf) == list(put)
    assert len(shelf) == len(put)
    for name in (*put, *reversed(put)):  # in any order, as often as one likes
        np.testing.assert_array_equal(shelf[name], put[name])
        assert shelf[name].dtype == np.float32
    assert "absent" not in shelf
    with pytest.raises(KeyError):
        shelf["absent"]


def test_a_shelf_leaves_no_file(cache: Path) -> None:
    shelf = Shelf(arrays())
    assert list(cache.iterdir()) == []  # nobody finds it, and kill -9 leaves nothing
    gc.collect()
    before = open_files()
    del shelf
    gc.collect()
    assert open_files() == before - 1


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
        with pytest.raises(ResourceError, match="no space left while writing") as caught:
            Shelf(arrays())
    assert str(cache) in str(caught.value)
