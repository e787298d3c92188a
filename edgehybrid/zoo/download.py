"""Download a file once: resumable, atomic, its hash recorded the first time and checked ever after."""

import contextlib
import http.client
import json
import os
import queue
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgehybrid.errors import InputError, NotReadyError, ResourceError, WeightsError
from edgehybrid.store import cache_root, locked, sha256_of, write_atomic
from edgehybrid.store.files import guarding, rename

ANSWER_SECONDS = 8.0
"""How long names, connections, redirects and headers may take together before the network counts as absent."""
SILENCE_SECONDS = 15.0
"""How long a running transfer may stand still."""
ATTEMPTS = 3
CHUNK = 1 << 18  # bytes
PIECES = 5
"""Progress is told this many times."""


class DownloadError(NotReadyError):
    """The network did not give the file; what came so far is kept and continued next time."""


@dataclass(frozen=True)
class Answer:
    """A server about to send."""

    body: http.client.HTTPResponse
    start: int  # first byte it sends
    total: int | None  # size of the whole file, bytes; None: the server does not say
    validator: str  # what If-Range takes; empty: the server gives nothing that identifies this version


def fetch(url: str, path: Path, *, check: Callable[[Path], None], notify: Callable[[str], None]) -> str:
    """Make sure that `path` holds what `url` gave when it was first downloaded.

    The network is asked before the disk is touched, the transfer goes to `<path>.part`, and an interrupted one
    continues there if the server can prove, by If-Range, that the file is still the same. Two processes
    download once.

    Args:
        url: http or https.
        path: Where the file belongs; `<path>.json` beside it holds its url, sha256 and bytes.
        check: Called with the complete download before it is accepted; raises InputError to refuse it.
        notify: Told how far the transfer is.

    Returns:
        SHA-256 of the file.

    Raises:
        DownloadError: No network, no such file, interrupted too often, or refused by `check`.
        WeightsError: The file in the cache is not the one that was recorded.
        ResourceError: The disk is full or the cache cannot be written.
    """
    known = cached(url, path)
    if known is not None:
        return known
    part, state = _beside(path, ".part"), _beside(path, ".part.json")
    answer: Answer | None = _ask(url, part, state)
    try:
        with locked(f"download {path}", lambda: notify(f"another process is downloading {path.name}; waiting")):
            known = cached(url, path)
            if known is not None:
                return known
            for _ in range(ATTEMPTS):
                if answer is None or answer.start not in (0, _resume_at(part)):
                    answer = _ask(url, part, state)
                if _receive(answer, url, part, state, notify):
                    return _accept(url, path, check)
                answer = None
    finally:
        if answer is not None:
            answer.body.close()
    raise DownloadError(
        f"the download of {path.name} was interrupted",
        why=f"{_size(part) / 1e6:.1f} MB arrived from {url}",
        fix="run the same command again: it continues where it stopped",
    )


def cached(url: str, path: Path) -> str | None:
    """SHA-256 of a file downloaded earlier from the same address, None if there is none.

    Raises:
        WeightsError: It is not the file that was recorded.
        ResourceError: It cannot be read.
    """
    record = _read_json(_beside(path, ".json"))
    with guarding(path):
        if record.get("url") != url or not path.is_file():
            return None
        found = sha256_of(path)
    if found != record.get("sha256"):
        raise WeightsError(
            f"{path} has changed since it was downloaded",
            why=f"found sha256 {found[:12]}, recorded {str(record.get('sha256'))[:12]}",
            fix=f"rm '{path}' and run again to download it anew",
        )
    return found


def weights_path(model: str, url: str) -> Path:
    """Where a model's official checkpoint is kept."""
    return cache_root() / "weights" / model / url.rsplit("/", 1)[-1]


def _ask(url: str, part: Path, state: Path) -> Answer:
    """Open the transfer where the partial file ends, or at the beginning."""
    if os.environ.get("EDGEHYBRID_OFFLINE", "0") not in ("", "0"):
        raise _no_answer(url, "EDGEHYBRID_OFFLINE is set")
    request = urllib.request.Request(url, headers={"User-Agent": "edgehybrid", "Accept-Encoding": "identity"})
    kept, origin = _resume_at(part), _read_json(state)
    if kept and origin.get("url") == url and origin.get("validator"):
        request.add_header("Range", f"bytes={kept}-")
        request.add_header("If-Range", str(origin["validator"]))
    try:
        body = _open_within(request, ANSWER_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and kept:
            with guarding(part):
                part.unlink(missing_ok=True)  # longer than the file: not a beginning of it
            return _ask(url, part, state)
        raise _no_answer(url, f"the server says {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(url, str(getattr(error, "reason", None) or error or type(error).__name__)) from error
    if url.startswith("https:") and not body.url.startswith("https:"):
        body.close()
        raise _no_answer(url, f"redirected to {body.url.split(':')[0]}, which anyone on the way can change")
    return _read_headers(body, url, kept)


def _open_within(request: urllib.request.Request, seconds: float) -> http.client.HTTPResponse:
    """Open a URL in a thread: a socket timeout bounds neither name resolution nor a chain of addresses."""
    results: queue.Queue[http.client.HTTPResponse | Exception] = queue.Queue()
    abandoned = threading.Event()

    def work() -> None:
        try:
            response = urllib.request.urlopen(request, timeout=SILENCE_SECONDS)
        except Exception as error:  # handed over to the waiting thread, whatever it is
            results.put(error)
            return
        if abandoned.is_set():
            response.close()
        results.put(response)

    threading.Thread(target=work, name="edgehybrid-download", daemon=True).start()
    try:
        result = results.get(timeout=seconds)
    except queue.Empty:
        abandoned.set()
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if isinstance(result, Exception):
        raise result
    return result


def _read_headers(body: http.client.HTTPResponse, url: str, kept: int) -> Answer:
    etag = body.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else body.headers.get("Last-Modified", "")
    length = body.headers.get("Content-Length")
    if body.status == http.client.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", body.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != kept:
            body.close()
            raise _no_answer(url, f"asked for bytes from {kept}, got {body.headers.get('Content-Range')}")
        return Answer(body, kept, int(match[2]), validator)
    return Answer(body, 0, int(length) if length and length.isdigit() else None, validator)


def _receive(answer: Answer, url: str, part: Path, state: Path, notify: Callable[[str], None]) -> bool:
    """Append what the server sends; whether the file is now complete."""
    with guarding(part.parent):
        part.parent.mkdir(parents=True, exist_ok=True)
        _check_space(answer, part)
        write_atomic(state, json.dumps({"url": url, "validator": answer.validator}).encode())
        file = part.open("r+b" if answer.start else "wb")
    size, total = answer.start, answer.total
    told = size
    whole = f" of {total / 1e6:.1f}" if total else ""
    notify(f"downloading {url}: {size / 1e6:.1f}{whole} MB")
    with file, answer.body:
        file.seek(answer.start)
        file.truncate()
        while True:
            try:
                chunk = answer.body.read(CHUNK)
            except (OSError, http.client.HTTPException):  # reset, silent, or a broken chunk: continue later
                return False
            if not chunk:
                break
            with guarding(part):
                file.write(chunk)
            size += len(chunk)
            if total and size - told >= total / PIECES and size < total:
                notify(f"downloading {part.stem}: {size / 1e6:.1f}{whole} MB")
                told = size
        with guarding(part):
            file.flush()
            os.fsync(file.fileno())
    return total is None or size == total


def _check_space(answer: Answer, part: Path) -> None:
    missing = (answer.total or 0) - answer.start
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise ResourceError(
            f"no space for {part.with_suffix('').name}",
            why=f"needed {missing / 2**20:.1f} MiB in {part.parent}, found {free / 2**20:.1f} MiB",
            fix="free some space, or set EDGEHYBRID_CACHE_DIR to a folder on another disk",
        )


def _accept(url: str, path: Path, check: Callable[[Path], None]) -> str:
    """Check the complete download, record its hash, then give it its name."""
    part = _beside(path, ".part")
    try:
        check(part)
    except InputError as error:
        part.unlink()
        raise DownloadError(
            f"what came from {url} is not usable",
            why=error.why,
            fix="if this network shows a login page, log in and run again; or give a file with --weights FILE",
        ) from error
    digest = sha256_of(part)
    record = {"url": url, "sha256": digest, "bytes": _size(part)}
    write_atomic(_beside(path, ".json"), json.dumps(record, indent=1).encode())
    with guarding(path.parent):
        rename(part, path)
        _beside(path, ".part.json").unlink(missing_ok=True)
    return digest


def _no_answer(url: str, why: str) -> DownloadError:
    return DownloadError(
        f"{url.split('/')[2]} did not give {url.rsplit('/', 1)[-1]}",
        why=f"{why} ({url})",
        fix="check the network, or download the file elsewhere and give it with --weights FILE",
    )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _resume_at(part: Path) -> int:
    """One byte before the end, so that there is something to send even if only the renaming was missed."""
    return max(_size(part) - 1, 0)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _read_json(path: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}
