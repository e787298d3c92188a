"""Each stage is done once, survives kill -9, and is done again when its result was harmed."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from edgehybrid import store
from edgehybrid.errors import ResourceError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_hello(folder: Path) -> None:
    (folder / "hello.txt").write_text("hello")


def refuse(folder: Path) -> None:
    raise AssertionError("done twice")


def test_a_second_run_with_the_same_inputs_does_no_work() -> None:
    first, cost = store.run_stage("s", {"a": 1}, write_hello)
    second, again = store.run_stage("s", {"a": 1}, refuse)
    assert (first, cost.cached, again.cached) == (second, False, True)


def test_other_inputs_or_another_name_do_their_own_work() -> None:
    folders = {store.run_stage(n, i, write_hello)[0] for n, i in (("s", {"a": 1}), ("s", {"a": 2}), ("t", {"a": 1}))}
    assert len(folders) == 3


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_harmed_result_is_made_again(harm: str) -> None:
    folder, _ = store.run_stage("s", {}, write_hello)
    if harm == "remove":
        (folder / "hello.txt").unlink()
    else:
        (folder / "hello.txt").write_text("jello" if harm == "flip" else "hell")
    folder, stage = store.run_stage("s", {}, write_hello)
    assert not stage.cached
    assert (folder / "hello.txt").read_text() == "hello"


def test_a_failure_leaves_nothing_behind(cache: Path) -> None:
    def fail(folder: Path) -> None:
        write_hello(folder)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        store.run_stage("s", {}, fail)
    assert list((cache / "stages").glob("??/*")) == []


def _die_halfway(root: str) -> None:
    os.environ["EDGEHYBRID_CACHE_DIR"] = root

    def half(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    store.run_stage("s", {}, half)


def test_kill_9_halfway_is_repaired_by_the_next_run(cache: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_halfway, args=(str(cache),))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    folder, stage = store.run_stage("s", {}, write_hello)
    assert not stage.cached
    assert sorted(p.name for p in folder.iterdir()) == ["hello.txt", "stage.json"]


def _count(root: str, log: str) -> None:
    os.environ["EDGEHYBRID_CACHE_DIR"] = root

    def slow(folder: Path) -> None:
        with Path(log).open("a") as file:
            file.write("x")
        time.sleep(0.3)
        write_hello(folder)

    store.run_stage("s", {}, slow)


def test_four_processes_at_once_do_the_work_once(cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count, args=(str(cache), str(log))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0, 0, 0, 0]
    assert log.read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_a_resource_error(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o500)
    with pytest.raises(ResourceError, match="cannot write"):
        store.run_stage("s", {}, write_hello)


def test_a_cache_below_a_file_is_a_resource_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(ResourceError, match="cannot write"):
        store.run_stage("s", {}, write_hello)
