"""Files are never half there."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgehybrid import store
from edgehybrid.errors import ResourceError
from edgehybrid.pipeline.outputs import check_file


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of more than 64 KiB fail to be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_limit_of_size_keeps_the_old_file_and_is_not_called_a_full_disk(tmp_path: Path, small_files: None) -> None:
    store.write_atomic(tmp_path / "a.bin", b"old")
    with pytest.raises(ResourceError, match="became too large while writing") as caught:
        store.write_atomic(tmp_path / "a.bin", bytes(100_000))
    assert caught.value.exit_code == 8
    assert "ulimit -f" in caught.value.fix
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_keeps_the_old_file_and_leaves_no_temporary(tmp_path: Path) -> None:
    def cut_off() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    store.write_atomic(tmp_path / "a.bin", b"old")
    with pytest.raises(ResourceError, match="no space left") as caught:
        store.write_atomic(tmp_path / "a.bin", cut_off())
    assert caught.value.exit_code == 8
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: store.write_atomic(path, b"x"),
        lambda path: store.write_bundle(path, {"a": b"x"}, {}),
        lambda path: store.check_output(path, "cmt_ti"),
        lambda path: check_file(path),
    ],
)
def test_a_current_folder_that_was_removed_is_named_before_any_work(
    write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ResourceError, match="the current folder was removed"):
        write(Path("new"))


def test_a_file_in_the_way_of_a_folder_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="cannot write"):
        store.write_atomic(tmp_path / "file" / "inside", b"x")


@pytest.mark.parametrize("name", ["folder", "x" * 300])
def test_a_name_that_no_file_can_have_is_a_resource_error_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match=f"(?m)cannot write .*{name}$") as caught:
        store.write_atomic(tmp_path / name, b"x")
    assert caught.value.exit_code == 8
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        store.write_atomic(tmp_path / "a", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
