"""Downloads survive interruption, and never leave or accept a file that is not the one on the server."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgehybrid.errors import ResourceError, WeightsError
from edgehybrid.zoo import download
from edgehybrid.zoo.download import DownloadError, cached, fetch, weights_path
from tests.zoo.server import FileServer

CONTENT = bytes(range(256)) * 8192  # 2 MiB: several chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.delenv("EDGEHYBRID_OFFLINE")
    with FileServer(CONTENT).running() as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "net.pth"


def accept(path: Path) -> None:
    """A check that accepts everything."""


def get(server: FileServer, path: Path) -> str:
    return fetch(server.url, path, check=accept, notify=lambda _: None)


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def test_a_file_arrives_whole_and_its_hash_is_recorded(server: FileServer, path: Path) -> None:
    assert get(server, path) == DIGEST
    assert path.read_bytes() == CONTENT
    record = json.loads(path.with_name("net.pth.json").read_text())
    assert record == {"url": server.url, "sha256": DIGEST, "bytes": len(CONTENT)}
    assert sorted(p.name for p in path.parent.iterdir()) == ["net.pth", "net.pth.json"]


def test_a_downloaded_file_is_not_asked_for_again(server: FileServer, path: Path) -> None:
    get(server, path)
    assert get(server, path) == DIGEST
    assert len(server.asked) == 1


def test_a_file_changed_in_the_cache_is_refused(server: FileServer, path: Path) -> None:
    get(server, path)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsError, match="has changed since it was downloaded"):
        get(server, path)


def test_a_file_recorded_for_another_address_is_downloaded_anew(server: FileServer, path: Path) -> None:
    get(server, path)
    record = path.with_name("net.pth.json")
    record.write_text(record.read_text().replace("release", "older"))
    assert cached(server.url, path) is None
    assert get(server, path) == DIGEST
    assert len(server.asked) == 2


def test_an_interrupted_transfer_continues_where_it_stopped(server: FileServer, path: Path) -> None:
    server.cuts = [1_500_000]
    assert get(server, path) == DIGEST
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1499999-"]


def test_three_interruptions_are_an_error_and_the_next_call_finishes(server: FileServer, path: Path) -> None:
    server.cuts = [700_000, 300_000, 200_000]
    with pytest.raises(DownloadError, match="interrupted") as error:
        get(server, path)
    assert "1.2 MB arrived" in error.value.why
    assert not path.exists()
    assert part_of(path).read_bytes() == CONTENT[:1_199_998]
    assert get(server, path) == DIGEST
    assert server.asked[-1] == "bytes=1199997-"


def test_a_file_that_changed_between_two_attempts_is_not_spliced(server: FileServer, path: Path) -> None:
    server.cuts = [700_000, 10, 10]
    with pytest.raises(DownloadError):
        get(server, path)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    get(server, path)
    assert path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("ranges", [True, False])
def test_without_proof_that_the_file_is_the_same_the_transfer_starts_over(
    server: FileServer, path: Path, ranges: bool
) -> None:
    server.ranges = ranges
    server.etag = 'W/"weak"' if ranges else '"v1"'  # a weak tag cannot vouch for bytes (RFC 9110, 13.1.5)
    server.cuts = [700_000]
    assert get(server, path) == DIGEST
    assert server.asked == [None, None if ranges else "bytes=699999-"]
    assert path.read_bytes() == CONTENT


def test_the_date_stands_in_for_a_missing_tag(server: FileServer, path: Path) -> None:
    server.etag, server.modified = None, "Sat, 21 Nov 2026 14:00:00 GMT"
    server.cuts = [700_000]
    assert get(server, path) == DIGEST
    assert server.asked[1] == "bytes=699999-"


def test_a_server_that_promises_more_than_it_sends_is_an_error(server: FileServer, path: Path) -> None:
    server.extra_length = 5
    with pytest.raises(DownloadError, match="interrupted"):
        get(server, path)
    assert not path.exists()


def test_a_partial_file_longer_than_the_real_one_is_dropped(server: FileServer, path: Path) -> None:
    server.cuts = [700_000, 10, 10]
    with pytest.raises(DownloadError):
        get(server, path)
    part_of(path).write_bytes(CONTENT * 2)
    assert get(server, path) == DIGEST
    assert path.read_bytes() == CONTENT


def test_a_complete_transfer_that_was_not_renamed_sends_one_byte(server: FileServer, path: Path) -> None:
    server.cuts = [700_000, 10, 10]
    with pytest.raises(DownloadError):
        get(server, path)
    part_of(path).write_bytes(CONTENT)
    assert get(server, path) == DIGEST
    assert server.asked[-1] == f"bytes={len(CONTENT) - 1}-"


def test_a_length_that_is_not_told_is_no_obstacle(server: FileServer, path: Path) -> None:
    server.says_length = False
    assert get(server, path) == DIGEST


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_refusal_of_the_server_is_told(server: FileServer, path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(DownloadError) as error:
        get(server, path)
    assert f"the server says {status}" in error.value.why
    assert not path.parent.exists()


def test_a_download_that_the_check_refuses_is_not_kept(server: FileServer, path: Path) -> None:
    def refuse(path: Path) -> None:
        raise WeightsError("not a checkpoint", why="found a web page", fix="")

    with pytest.raises(DownloadError) as error:
        fetch(server.url, path, check=refuse, notify=lambda _: None)
    assert error.value.why == "found a web page"
    assert not path.exists()
    assert not part_of(path).exists()


def test_nobody_listening_is_no_answer(server: FileServer, path: Path) -> None:
    closed = server.url.replace(server.url.split(":")[2].split("/")[0], "9")
    with pytest.raises(DownloadError, match=r"did not give net\.pth"):
        fetch(closed, path, check=accept, notify=lambda _: None)
    assert not path.parent.exists()


def test_a_silent_server_is_given_up(server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.05)
    server.ready.clear()
    with pytest.raises(DownloadError, match="did not give") as error:
        get(server, path)
    assert "no answer within" in error.value.why


def test_offline_nothing_is_asked(server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHYBRID_OFFLINE", "1")
    with pytest.raises(DownloadError):
        get(server, path)
    assert server.asked == []


def test_offline_a_downloaded_file_serves(server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get(server, path)
    monkeypatch.setenv("EDGEHYBRID_OFFLINE", "1")
    assert get(server, path) == DIGEST


def test_control_c_keeps_what_arrived(server: FileServer, path: Path) -> None:
    def interrupt(message: str) -> None:
        if message.startswith("downloading net.pth"):  # the first fifth is there
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, path, check=accept, notify=interrupt)
    kept = part_of(path).stat().st_size
    assert 0 < kept < len(CONTENT)
    assert get(server, path) == DIGEST
    assert server.asked[-1] == f"bytes={kept - 1}-"


def test_a_killed_process_leaves_a_beginning_and_no_lock(server: FileServer, path: Path) -> None:
    server.pause_at = 1_000_000
    code = (
        "import sys; from pathlib import Path; from edgehybrid.zoo.download import fetch;"
        "fetch(sys.argv[1], Path(sys.argv[2]), check=lambda _: None, notify=lambda _: None)"
    )
    with subprocess.Popen([sys.executable, "-c", code, server.url, str(path)]) as child:
        for _ in range(2000):
            if part_of(path).exists() and part_of(path).stat().st_size > 500_000:
                break
            time.sleep(0.01)
        child.kill()
    server.pause_at = 0
    server.ready.set()
    kept = part_of(path).stat().st_size
    assert 500_000 < kept <= 1_000_000
    assert get(server, path) == DIGEST
    assert server.asked[-1] == f"bytes={kept - 1}-"
    assert path.read_bytes() == CONTENT


def test_progress_is_told_in_a_few_lines(server: FileServer, path: Path) -> None:
    lines: list[str] = []
    fetch(server.url, path, check=accept, notify=lines.append)
    assert lines[0] == f"downloading {server.url}: 0.0 of 2.1 MB"
    assert 2 <= len(lines) <= 1 + download.PIECES


def test_two_at_once_both_get_the_file(server: FileServer, path: Path) -> None:
    barrier = threading.Barrier(2)

    def work() -> str:
        barrier.wait()
        return get(server, path)

    with ThreadPoolExecutor(2) as pool:
        results = [future.result() for future in [pool.submit(work), pool.submit(work)]]
    assert results == [DIGEST, DIGEST]
    assert path.read_bytes() == CONTENT


def test_a_full_disk_is_said_before_anything_is_sent(
    server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = os.statvfs_result((4096, 4096, 1000, 10, 10, 0, 0, 0, 0, 255))
    monkeypatch.setattr("shutil.os.statvfs", lambda _: usage)
    with pytest.raises(ResourceError, match=r"no space for net\.pth") as error:
        get(server, path)
    assert "needed 2.0 MiB" in error.value.why
    assert not part_of(path).exists()


def test_a_disk_that_fills_up_on_the_way_keeps_what_is_there(
    server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def full(handle: int) -> None:
        if os.fstat(handle).st_size == len(CONTENT):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="no space left"):
        get(server, path)
    monkeypatch.setattr(os, "fsync", real)
    assert part_of(path).exists()
    assert get(server, path) == DIGEST


def test_a_cache_that_cannot_be_made_is_a_matter_of_resources(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        get(server, tmp_path / "file" / "net.pth")


def test_a_secure_address_may_not_be_left(server: FileServer, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    opened = download._open_within
    monkeypatch.setattr(
        download, "_open_within", lambda request, seconds: opened(_plain(request.full_url, server), seconds)
    )
    with pytest.raises(DownloadError) as error:
        fetch("https://example.invalid/net.pth", path, check=accept, notify=lambda _: None)
    assert "redirected to http" in error.value.why


def _plain(url: str, server: FileServer) -> "download.urllib.request.Request":
    """What a redirect from https to http amounts to."""
    return download.urllib.request.Request(server.url)


def test_the_official_checkpoint_has_its_place_in_the_cache(cache: Path) -> None:
    assert weights_path("cmt_ti", "https://x.y/z/cmt_tiny.pth") == cache / "weights" / "cmt_ti" / "cmt_tiny.pth"
