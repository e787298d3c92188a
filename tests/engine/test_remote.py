"""Remote builds against a real sshd on loopback: push, build, fetch, and every way the connection can let one down.

sshd is Debian's openssh-server, started as an ordinary process on a free port with its own host key; $EDGEHYBRID_SSHD
may name another. The engine there is TensorRT-RTX's, which needs no GPU, or a stand-in for trtexec.
"""

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import edgehybrid
from edgehybrid.engine import find_builders, remote
from edgehybrid.engine.ssh import Connection
from edgehybrid.errors import EdgeHybridError, NotReadyError, ResourceError, StageError, UsageError
from edgehybrid.records import EngineStamp
from edgehybrid.store import decode, sha256_of
from tests.single import SingleNet

ROOT = Path(edgehybrid.__file__).parents[1]
SSHD = os.environ.get("EDGEHYBRID_SSHD") or shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [
    pytest.mark.skipif(SSHD is None, reason="no sshd here (apt install openssh-server)"),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh here (apt install openssh-client)"),
]
needs_rtx = pytest.mark.skipif(find_builders().rtx is None, reason="TensorRT-RTX (extra 'rtx') is not installed")

FLAKY = """#!{python}
import itertools, os, pathlib, subprocess, sys, threading
counter = pathlib.Path({counter!r})
kills = int(counter.read_text())
child = subprocess.Popen(["ssh", *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
passed = itertools.count()
def forward(source, sink, left):
    while piece := os.read(source, 16384):
        try:
            os.write(sink, piece)
        except OSError:
            return
        left -= len(piece)
        if kills > 0 and left <= 0:
            counter.write_text(str(kills - 1))
            child.kill()
            os._exit(255)
def feed():
    forward(0, child.stdin.fileno(), 300_000)
    child.stdin.close()
threading.Thread(target=feed, daemon=True).start()
forward(child.stdout.fileno(), 1, 300_000)
os._exit(child.wait())
"""
TRTEXEC = """#!/bin/sh
case "$*" in *--help*) echo "  --skipInference  only build"; exit 0;; esac
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec $*"
echo "[I] Selected Device: Orin"
echo "[I] Compute Capability: 8.7"
echo "[W] a warning"
for word in "$@"; do case $word in --saveEngine=*) {write} ;; esac; done
"""


@dataclass
class Server:
    """A board: how ssh reaches it, what it has."""

    folder: Path
    config: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    def install(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(script)
        path.chmod(0o755)

    def connection(self, *, client: str = "ssh") -> Connection:
        return Connection("ssh://board", command=(client, "-F", str(self.config)), pause=lambda seconds: None)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start(folder: Path, *, limit: str = "unlimited") -> Iterator[Server]:
    """A server until the generator is closed; skips with sshd's own words where it cannot run."""
    (folder / "bin").mkdir(parents=True)
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "keys").write_text((folder / "user.pub").read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/keys\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n"
        f"PidFile none\nMaxStartups 100\nSetEnv PATH={path} EDGEHYBRID_CACHE_DIR={folder}/cache\n"
    )
    public = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known").write_text(f"[127.0.0.1]:{port} {public}\n")
    (folder / "ssh_config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentityFile {folder}/user\n"
        f"Host *\n IdentitiesOnly yes\n UserKnownHostsFile {folder}/known\n StrictHostKeyChecking yes\n"
    )
    log = (folder / "sshd.log").open("wb")
    words = [
        "sh",
        "-c",
        f'ulimit -f {limit}; exec "$@"',
        "sh",
        str(SSHD),
        "-D",
        "-e",
        "-f",
        str(folder / "sshd_config"),
    ]
    daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 20
        while not answers(port):
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"sshd does not run here: {(folder / 'sshd.log').read_text().strip()[-200:]}")
            time.sleep(0.1)
        yield Server(folder, folder / "ssh_config")
    finally:
        daemon.terminate()
        daemon.wait()
        log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from start(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small network built for an RTX card (`rtx`) and for a Jetson (`orin`)."""
    folder = tmp_path_factory.mktemp("here")
    net = SingleNet(1, 3, 16, 16)
    flat = net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", net.conv("input", 3, 32, 3))))
    (folder / "tiny.onnx").write_bytes(net.graph(net.op("Gemm", flat, net.weight(32, 10))).to_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEHYBRID_CACHE_DIR", str(folder / "cache"))
        for target, name in (("rtx", "rtx"), ("orin-nano-8gb", "orin")):
            edgehybrid.build(model=str(folder / "tiny.onnx"), num_calib=8, target=target, output=folder / name)
        yield folder


@pytest.fixture
def reached(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server as the user's ssh knows it, with nothing installed."""
    monkeypatch.setenv("EDGEHYBRID_SSH", f"ssh -F {server.config}")
    for tool in server.bin.iterdir():
        tool.unlink()
    return server


def install_edgehybrid(server: Server) -> None:
    server.install("edgehybrid", f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m edgehybrid "$@"\n')


# --- the whole way ----------------------------------------------------------------------------------------------


@needs_rtx
def test_a_bundle_is_built_on_the_board_and_comes_back_whole(reached: Server, bundles: Path, tmp_path: Path) -> None:
    install_edgehybrid(reached)
    bundle = shutil.copytree(bundles / "rtx", tmp_path / "rtx")
    before = {name: (bundle / name).read_bytes() for name in ("model.onnx", "baseline.onnx", "control.onnx")}
    report = edgehybrid.build(bundle, host="ssh://board", opt_level=2)
    assert report.bundle == str(bundle)
    facts = json.loads((bundle / "engine.json").read_bytes())
    mark = decode(EngineStamp, facts["stamp"])
    assert mark.options.optimization_level == 2
    assert mark.engine_sha256 == sha256_of(bundle / "engine.plan")
    assert {name: (bundle / name).read_bytes() for name in before} == before
    assert "engine.plan" in edgehybrid.verify(bundle).files
    assert not list(bundle.glob("*.part"))


def test_trtexec_builds_where_there_is_nothing_else(reached: Server, bundles: Path, tmp_path: Path) -> None:
    reached.install("trtexec", TRTEXEC.replace("{write}", 'printf "plan of %s" "$word" > "${word#*=}"'))
    bundle = shutil.copytree(bundles / "orin", tmp_path / "orin")
    report = edgehybrid.build(bundle, host="ssh://board", workspace=512, opt_level=4)
    assert report.engine.status == "built"
    assert (bundle / "engine.plan").read_bytes() == b"plan of --saveEngine=engine.plan"
    facts = json.loads((bundle / "engine.json").read_bytes())
    mark = decode(EngineStamp, facts["stamp"])
    assert (mark.flavor, mark.version, mark.capabilities) == ("tensorrt", "10.3.0", ("8.7",))
    assert mark.model_sha256 == sha256_of(bundle / "model.onnx")
    assert facts["log"] == ["[W] a warning"]
    assert facts["control"]["stamp"]["engine_sha256"] == sha256_of(bundle / "control.plan")
    (log,) = reached.folder.glob("cache/remote/orin-*/build.log")
    words = log.read_text().splitlines()[0].split("# trtexec ")[1].split()
    for word in ("--stronglyTyped", "--memPoolSize=workspace:512", "--builderOptimizationLevel=4", "--skipInference"):
        assert word in words
    assert not {"--fp16", "--int8"} & set(words)


def test_a_build_that_fails_there_fails_here_with_its_own_words(reached: Server, bundles: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(bundles / "orin", tmp_path / "orin")
    reached.install("trtexec", TRTEXEC.replace("{write}", 'echo "[E] Error[4]: no such operator"; exit 1'))
    with pytest.raises(StageError, match="the build on board failed") as caught:
        edgehybrid.build(bundle, host="ssh://board")
    assert "no such operator" in caught.value.why
    install_edgehybrid(reached)  # a Jetson's bundle, on a machine that is none
    if find_builders().capability is None:
        with pytest.raises(NotReadyError, match="board: this machine cannot build engines for orin-nano-8gb") as caught:
            edgehybrid.build(bundle, host="ssh://board")
        assert "no CUDA device" in caught.value.why
    assert not (bundle / "engine.plan").exists()


# --- connections that drop ---------------------------------------------------------------------------------------


def test_twenty_killed_connections_are_twenty_recoveries(server: Server, tmp_path: Path) -> None:
    """Each try passes 300 kB and is then killed; nothing that arrived is sent twice."""
    (tmp_path / "kills").write_text("10")
    flaky = tmp_path / "flaky"
    flaky.write_text(FLAKY.replace("{python}", sys.executable).replace("{counter!r}", repr(str(tmp_path / "kills"))))
    flaky.chmod(0o755)
    content = np.random.default_rng(0).integers(0, 256, 4_000_000, dtype=np.uint8).tobytes()
    source, there, back = tmp_path / "source", server.folder / "arrived", tmp_path / "back"
    source.write_bytes(content)
    connection = server.connection(client=str(flaky))
    told: list[int] = []
    connection.push(source, str(there), sha256_of(source), told.append)
    assert there.read_bytes() == content
    assert connection.drops == 10
    (tmp_path / "kills").write_text("10")
    connection.pull(str(there), back, sha256_of(source), told.append)
    assert back.read_bytes() == content
    assert (tmp_path / "kills").read_text() == "0"
    assert connection.drops == 20


def test_a_build_outlives_the_connection_and_its_log_is_heard_once(server: Server, tmp_path: Path) -> None:
    """Whoever listens is cut off twice, after a second each; the build is started once and counts to 12."""
    cut = tmp_path / "cut"
    kills = tmp_path / "kills"
    kills.write_text("xx")
    cut.write_text(
        f'#!/bin/sh\nif [ -s {kills} ]; then case "$*" in *"while :"*) printf %s "$(cut -c2- {kills})" > {kills}; '
        'timeout -s KILL 1 ssh "$@"; exit 255;; esac; fi\nexec ssh "$@"\n'
    )
    cut.chmod(0o755)
    folder = server.folder / "long"
    folder.mkdir()
    board = remote.Board(str(folder), None, None, "board", 1 << 30)
    connection = server.connection(client=str(cut))
    count = "echo started >> starts; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; sleep 0.3; done"
    code, log = remote.build_there(connection, board, f"sh -c '{count}'")
    assert code == 0
    assert log == [f"line {i}" for i in range(1, 13)]
    assert (folder / "starts").read_text() == "started\n"
    assert connection.drops == 2


def test_a_transfer_goes_on_where_an_earlier_command_stopped(server: Server, tmp_path: Path) -> None:
    source, there = tmp_path / "source", server.folder / "half"
    source.write_bytes(bytes(range(256)) * 4000)
    Path(f"{there}.part").write_bytes(source.read_bytes()[:500_000])
    told: list[int] = []
    server.connection().push(source, str(there), sha256_of(source), told.append)
    assert there.read_bytes() == source.read_bytes()
    assert told[0] > 500_000


def test_a_damaged_beginning_is_sent_again(server: Server, tmp_path: Path) -> None:
    source, there = tmp_path / "source", server.folder / "damaged"
    source.write_bytes(b"right" * 1000)
    Path(f"{there}.part").write_bytes(b"wrong" * 500)
    server.connection().push(source, str(there), sha256_of(source), lambda done: None)
    assert there.read_bytes() == source.read_bytes()


# --- what cannot work ---------------------------------------------------------------------------------------------


def failing(bundle: Path, host: str = "ssh://board") -> EdgeHybridError:
    with pytest.raises(EdgeHybridError) as caught:
        edgehybrid.build(bundle, host=host)
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


def test_neither_edgehybrid_nor_trtexec(reached: Server, bundles: Path) -> None:
    error = failing(bundles / "orin")
    assert (error.exit_code, error.what) == (3, "board has neither edgehybrid nor trtexec")


def test_a_host_that_nobody_knows(reached: Server, bundles: Path) -> None:
    error = failing(bundles / "orin", "ssh://no-such-board.invalid")
    assert (error.exit_code, error.what) == (3, "cannot reach no-such-board.invalid")
    assert "unknown here" in error.why


def test_a_key_that_is_refused(reached: Server, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = reached.folder / "strange_config"
    stranger.write_text(reached.config.read_text().replace(f"{reached.folder}/user", f"{reached.folder}/stranger"))
    monkeypatch.setenv("EDGEHYBRID_SSH", f"ssh -F {stranger}")
    error = failing(bundles / "orin")
    assert error.exit_code == 3
    assert "refused your key" in error.why
    assert "ssh-copy-id board" in error.fix


def test_a_host_key_that_changed(
    reached: Server, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "config"
    (tmp_path / "known").write_text("")
    other.write_text(reached.config.read_text().replace(f"{reached.folder}/known", f"{tmp_path}/known"))
    monkeypatch.setenv("EDGEHYBRID_SSH", f"ssh -F {other}")
    error = failing(bundles / "orin")
    assert error.exit_code == 3
    assert "host key" in error.why


def test_a_full_disk_there(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start(tmp_path / "full", limit="16")  # blocks of 512 bytes; files there cannot grow beyond
    try:
        full = next(server)
        install_edgehybrid(full)
        monkeypatch.setenv("EDGEHYBRID_SSH", f"ssh -F {full.config}")
        with pytest.raises(ResourceError, match="no space left on board") as caught:
            edgehybrid.build(bundles / "orin", host="ssh://board")
        assert caught.value.exit_code == 8
    finally:
        server.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "host", ["jetson", "http://jetson", "ssh://", "ssh://a:b@jetson", "ssh://jetson/folder", "ssh://-oX"]
)
def test_addresses_that_are_none(host: str) -> None:
    with pytest.raises(UsageError):
        Connection(host)
