"""Talk to a board through OpenSSH's own client: run scripts, send and fetch files, go on after a dropped connection.

The user's config, keys and agent decide how to log in; nothing here ever asks for a password. Every script may be run
twice, so a connection that drops is opened again and the work goes on where it was.
"""

import contextlib
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from edgehybrid.errors import EdgeHybridError, NotReadyError, ResourceError, StageError, UsageError
from edgehybrid.progress import listener
from edgehybrid.store import guarding, sha256_of

OPTIONS = (
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=10",
    "-o",
    "ServerAliveInterval=5",
    "-o",
    "ServerAliveCountMax=3",
)
PATIENCE = 10
"""Dropped connections in a row, without a byte of progress, after which it is given up."""
_PIECE = 1 << 18
_FULL = 8
"""Exit status of a remote script that found the disk full."""
_LOST = 255
"""OpenSSH's exit status for a connection that failed or dropped."""

_PERMANENT = (
    (
        r"Could not resolve hostname|Name or service not known",
        "the name is unknown here",
        "check --host, or add it to ~/.ssh/config",
    ),
    (r"Permission denied", "the board refused your key", "ssh-copy-id HOST, then try `ssh HOST true`"),
    (
        r"Host key verification failed|REMOTE HOST IDENTIFICATION",
        "its host key is not the known one",
        "ssh HOST once by hand and compare the fingerprint",
    ),
    (
        r"Connection refused",
        "no ssh server answers there",
        "start sshd on the board, or give the port: ssh://HOST:PORT",
    ),
    (
        r"timed out|No route to host|Network is unreachable",
        "the board does not answer",
        "check its address and that it is switched on",
    ),
)
"""What OpenSSH says -> why, and what to do."""


class DroppedError(Exception):
    """The connection ended before the script did."""


class Connection:
    """One board.

    Args:
        host: `ssh://[user@]host[:port]`; the host may be a name of ~/.ssh/config.
        command: OpenSSH's client and options; `$EDGEHYBRID_SSH` or `ssh` by default.
        pause: Waits between two attempts; a test passes its own.
    """

    def __init__(
        self, host: str, *, command: tuple[str, ...] | None = None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.host, port, user = _parse(host)
        client = command or tuple(shlex.split(os.environ.get("EDGEHYBRID_SSH", "ssh")))
        target = f"{user}@{self.host}" if user else self.host
        self._command = (*client, *OPTIONS, *(("-p", str(port)) if port else ()), "--", target)
        self._pause = pause
        self.drops = 0  # connections lost so far

    def run(self, script: str) -> str:
        """Output of a POSIX shell script, which must bear being run twice.

        Raises:
            NotReadyError: The board cannot be reached.
            ResourceError: Its disk is full.
            StageError: The script failed.
        """
        return self._persist(lambda: self._once(script), lambda: 0)

    def push(self, path: Path, remote: str, digest: str, tell: Callable[[int], None]) -> None:
        """Send a file; what arrived of it before a drop, or in an earlier try, is not sent again.

        Args:
            path: Here.
            remote: There, absolute.
            digest: SHA-256 that the file must have there before it gets its name.
            tell: Told how many bytes are there.

        Raises:
            ResourceError: The disk there is full.
            StageError: What arrived is not what was sent, twice.
        """
        part, name = shlex.quote(f"{remote}.part"), shlex.quote(remote)
        for _ in range(2):
            self._persist(lambda: self._send(path, part, tell), lambda: self._arrived(part))
            check = (
                f"[ -f {name} ] && [ ! -f {part} ] && exit 0; "
                f'if [ "$(sha256sum < {part} | cut -c1-64)" = {digest} ]; '
                f"then mv {part} {name}; else rm -f {part}; echo damaged; fi"
            )
            if "damaged" not in self.run(check):
                return
        raise StageError(
            f"{path.name} does not arrive whole on {self.host}",
            why="its hash differs there, twice in a row",
            fix="check the network and the disk of the board",
        )

    def pull(self, remote: str, path: Path, digest: str, tell: Callable[[int], None]) -> None:
        """Fetch a file, going on where an earlier try stopped.

        Raises:
            ResourceError: The disk here is full.
            StageError: What arrived is not what was there.
        """
        part = path.with_name(f"{path.name}.part")
        with guarding(path.parent):
            for _ in range(2):
                self._persist(lambda: self._receive(remote, part, tell), lambda: _size(part))
                if sha256_of(part) == digest:
                    part.replace(path)
                    return
                part.unlink()
        raise StageError(f"{path.name} does not arrive whole from {self.host}", why="its hash differs", fix="try again")

    def follow(self, script: Callable[[int], str], hear: Callable[[str], None]) -> None:
        """Run a script that prints a growing log from a given byte on and ends with the work; lines as they come.

        Args:
            script: Offset in bytes -> the script.
            hear: Told each line.
        """
        heard = 0
        rest = b""

        def listen() -> None:
            nonlocal heard, rest
            with self._start(script(heard), None) as (child, complaints):
                assert child.stdout is not None
                while piece := os.read(child.stdout.fileno(), 65536):
                    heard += len(piece)
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        hear(line.decode(errors="replace"))
                self._judge(child.wait(), complaints)

        self._persist(listen, lambda: heard)

    def _persist(self, work: Callable[[], "str | None"], progress: Callable[[], int]) -> str:
        """Do the work, again after every drop, until it stops getting anywhere."""
        futile, before = 0, -1
        while True:
            try:
                return work() or ""
            except DroppedError as error:  # noqa: PERF203 - a network is what this loop is about
                self.drops += 1
                try:
                    now = progress()
                except DroppedError:
                    now = before
                futile, before = (0 if now > before else futile + 1), now
                if futile >= PATIENCE:
                    raise NotReadyError(
                        f"the connection to {self.host} keeps dropping",
                        why=f"{PATIENCE} tries in a row got nowhere; {error}",
                        fix="run the same command again: it goes on where this one stopped",
                    ) from error
                self._pause(min(0.2 * 2**futile, 5.0))
                listener().note(f"the connection to {self.host} dropped; going on")

    def _once(self, script: str) -> str:
        with self._start(script, None) as (child, complaints):
            assert child.stdout is not None
            output = child.stdout.read()
            self._judge(child.wait(), complaints)
        return output.decode(errors="replace")

    def _arrived(self, part: str) -> int:
        """Bytes of a file that are there."""
        return int(self._once(f"if [ -f {part} ]; then wc -c < {part}; else echo 0; fi").strip() or 0)

    def _send(self, path: Path, part: str, tell: Callable[[int], None]) -> None:
        done = self._arrived(part)
        if done > path.stat().st_size:
            self._once(f"rm -f {part}")
            done = 0
        with (
            path.open("rb") as file,
            self._start(f"cat >> {part} || exit {_FULL}", subprocess.PIPE) as (child, complaints),
        ):
            file.seek(done)
            assert child.stdin is not None
            try:
                while piece := file.read(_PIECE):
                    child.stdin.write(piece)
                    done += len(piece)
                    tell(done)
                child.stdin.close()
            except BrokenPipeError:
                pass  # the end of the child says why
            self._judge(child.wait(), complaints)

    def _receive(self, remote: str, part: Path, tell: Callable[[int], None]) -> None:
        with part.open("ab") as file:
            script = f"tail -c +{file.tell() + 1} {shlex.quote(remote)}"
            with self._start(script, None) as (child, complaints):
                assert child.stdout is not None
                while piece := os.read(child.stdout.fileno(), _PIECE):
                    file.write(piece)
                    tell(file.tell())
                self._judge(child.wait(), complaints)

    def _start(self, script: str, stdin: int | None) -> "_Child":
        return _Child([*self._command, f"sh -c {shlex.quote(script)}"], stdin)

    def _judge(self, code: int, complaints: BinaryIO) -> None:
        """Nothing if the script succeeded.

        Raises:
            DroppedError: The connection was lost.
            EdgeHybridError: It cannot be had, or the script failed.
        """
        if code == 0:
            return
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip()
        last = said.splitlines()[-1] if said else "it said nothing"
        if code == _LOST or code < 0:
            for pattern, why, fix in _PERMANENT:
                if re.search(pattern, said):
                    raise NotReadyError(
                        f"cannot reach {self.host}", why=f"{why}: {last}", fix=fix.replace("HOST", self.host)
                    )
            raise DroppedError(last)
        raise self._failure(code, said, last)

    def _failure(self, code: int, said: str, last: str) -> EdgeHybridError:
        if code == _FULL or "No space left" in said or "Disk quota" in said or "File too large" in said:
            return ResourceError(f"no space left on {self.host}", why=last, fix=f"free some space on {self.host}")
        return StageError(
            f"a command failed on {self.host}", why=f"exit {code}: {last}", fix=f"ssh {self.host} and look"
        )


class _Child:
    """OpenSSH's client, killed on leaving if it still runs; what it complains about goes to a file."""

    def __init__(self, command: list[str], stdin: int | None) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed on leaving
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
            )
        except FileNotFoundError as error:
            self._complaints.close()
            raise NotReadyError(
                f"{command[0]} is not installed",
                why="a board is reached through OpenSSH",
                fix="apt install openssh-client",
            ) from error

    def __enter__(self) -> "tuple[subprocess.Popen[bytes], BinaryIO]":
        return self._child, self._complaints

    def __exit__(self, *ending: object) -> None:
        if self._child.poll() is None:
            self._child.kill()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._child.wait()
        self._complaints.close()


def _parse(host: str) -> tuple[str, int | None, str | None]:
    """Host, port and user of `ssh://[user@]host[:port]`.

    Raises:
        UsageError: It is no such address, or it holds a password.
    """
    example = "--host ssh://user@jetson"
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--host {host} is no address", why=str(error), fix=example) from error
    if parts.password:
        raise UsageError("--host takes no password", why="others could read it", fix="use a key: ssh-copy-id")
    if parts.scheme != "ssh" or not parts.hostname or parts.path.strip("/") or parts.hostname.startswith("-"):
        raise UsageError(f"--host {host} is no address", why="needed ssh://[user@]host[:port]", fix=example)
    return parts.hostname, port, parts.username


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
