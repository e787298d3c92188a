"""Build the engine of a bundle on the board that will run it: push, build, fetch; every step goes on after a drop.

There, the `edgehybrid` that is found builds as `edgehybrid build BUNDLE` does; failing that, NVIDIA's `trtexec` builds
from the same files. The build outlives the connection: who comes back listens on.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from edgehybrid.engine.ssh import Connection
from edgehybrid.errors import (
    ArtifactError,
    EdgeHybridError,
    InputError,
    NotReadyError,
    ResourceError,
    StageError,
    UsageError,
)
from edgehybrid.progress import listener
from edgehybrid.records import Engine, EngineBuild, EngineOptions, EngineStamp, Precision, Target
from edgehybrid.store import sha256_of

TRTEXEC = ("trtexec", "/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec")
EDGEHYBRID = (
    "edgehybrid",
    "$HOME/.local/bin/edgehybrid",
    "$HOME/.venv/bin/edgehybrid",
    "$HOME/edgehybrid/bin/edgehybrid",
)
"""Where the builders are looked for: a shell that nobody logs in to knows little of PATH."""
SPARE_BYTES = 64 << 20
"""Room the board must have besides what is sent: engines and the builder's own files."""
_ERRORS: dict[int, type[EdgeHybridError]] = {
    2: UsageError,
    3: NotReadyError,
    4: InputError,
    5: StageError,
    7: ArtifactError,
    8: ResourceError,
}
"""Exit code of the remote `edgehybrid` -> the same error here."""


@dataclass(frozen=True)
class Board:
    """What was found on the other side."""

    folder: str  # of this bundle, absolute
    edgehybrid: str | None
    trtexec: str | None
    name: str
    free_bytes: int


def find_board(connection: Connection, bundle: Path, options: EngineOptions) -> Board:
    """Look at the board and make the folder that this bundle is built in.

    Args:
        connection: To it.
        bundle: With its manifest; the folder there belongs to exactly this content and these options.
        options: Of the builder.

    Raises:
        NotReadyError: The board cannot be reached, or has neither edgehybrid nor trtexec.
    """
    key = (bundle / "manifest.json").read_bytes() + json.dumps(asdict(options)).encode()
    label = f"{re.sub(r'[^A-Za-z0-9._-]', '-', bundle.resolve().name)}-{hashlib.sha256(key).hexdigest()[:12]}"

    def first(places: tuple[str, ...]) -> str:
        tries = " ".join(f'"{place}"' for place in places)
        return f'for c in {tries}; do p=$(command -v "$c" 2>/dev/null) && {{ echo "$p"; break; }}; done | head -n 1'

    said = connection.run(
        f'd="${{EDGEHYBRID_CACHE_DIR:-${{XDG_CACHE_HOME:-$HOME/.cache}}/edgehybrid}}/remote/{label}"; '
        'mkdir -p "$d" || exit 8; cd "$d" || exit 8; pwd; '
        f'echo "edgehybrid=$({first(EDGEHYBRID)})"; echo "trtexec=$({first(TRTEXEC)})"; '
        "echo \"name=$(tr -d '\\0' < /proc/device-tree/model 2>/dev/null || uname -n)\"; "
        "echo \"free=$(df -Pk . | awk 'NR==2 {print $4}')\""
    )
    folder, *lines = said.strip().splitlines()
    told = dict(line.split("=", 1) for line in lines)
    board = Board(
        folder,
        told.get("edgehybrid") or None,
        told.get("trtexec") or None,
        told.get("name", connection.host),
        int(told.get("free") or 0) << 10,
    )
    if board.edgehybrid is None and board.trtexec is None:
        raise NotReadyError(
            f"{connection.host} has neither edgehybrid nor trtexec",
            why=f"looked for {', '.join((*EDGEHYBRID[:2], *TRTEXEC[:2]))}",
            fix=f"on {connection.host}: pip install 'edgehybrid[jetson]', or sudo apt install nvidia-jetpack",
        )
    return board


def push_bundle(connection: Connection, board: Board, bundle: Path, files: Mapping[str, str]) -> None:
    """Send the files that the board does not have yet.

    Args:
        connection: To the board.
        board: As found.
        bundle: The folder here.
        files: Name -> SHA-256, the manifest last.

    Raises:
        ResourceError: The board's disk is too full.
    """
    held = connection.run(f"cd {shlex.quote(board.folder)} && sha256sum -- *.* 2>/dev/null; true")
    there = {line[66:]: line[:64] for line in held.splitlines() if len(line) > 66}
    missing = [name for name, digest in files.items() if there.get(name) != digest]
    total = sum((bundle / name).stat().st_size for name in missing)
    if board.free_bytes < total + SPARE_BYTES:
        raise ResourceError(
            f"no space left on {connection.host}",
            why=f"{board.free_bytes >> 20} MiB free in {board.folder}, needed {(total + SPARE_BYTES) >> 20} MiB",
            fix=f"free some space on {connection.host}",
        )
    sent = 0
    for name in missing:
        remote = f"{board.folder}/{name}"
        if name in there:  # an older file of that name: its bytes must not pass for a beginning of the new one
            connection.run(f"rm -f {shlex.quote(remote)}")
        connection.push(bundle / name, remote, files[name], lambda done, base=sent: _tell(base + done, total))  # type: ignore[misc]
        sent += (bundle / name).stat().st_size


def build_there(connection: Connection, board: Board, command: str) -> tuple[int, list[str]]:
    """Run a command in the bundle's folder on the board; exit code and log.

    The command is started once, apart from the connection, and its log is read until it ends.
    """
    folder = shlex.quote(board.folder)
    apart = f"{command} >> build.log 2>&1; echo $? > build.exit.tmp; mv build.exit.tmp build.exit"
    start = (
        f"cd {folder} || exit 8; "
        'if [ -f build.pid ] && [ ! -f build.exit ] && kill -0 "$(cat build.pid)" 2>/dev/null; then exit 0; fi; '
        "rm -f build.exit build.log build.pid; : > build.log; "
        f"nohup setsid sh -c {shlex.quote(apart)} "
        "< /dev/null > /dev/null 2>&1 & echo $! > build.pid"
    )
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        if line.strip():
            listener().note(f"{connection.host}: {line.strip()[:200]}")

    def listen(offset: int) -> str:
        return (
            f"cd {folder} || exit 8; n={offset}; while :; do e=0; [ -f build.exit ] && e=1; s=$(wc -c < build.log); "
            '[ "$s" -gt "$n" ] && { tail -c +$((n + 1)) build.log | head -c $((s - n)); n=$s; }; '
            '[ $e = 1 ] && break; kill -0 "$(cat build.pid)" 2>/dev/null || { sleep 1; [ -f build.exit ] || break; }; '
            "sleep 0.3; done"
        )

    connection.run(start)
    connection.follow(listen, hear)
    code = connection.run(f"cat {folder}/build.exit 2>/dev/null || echo -1").strip()
    return int(code), lines


def command_of(board: Board, options: EngineOptions) -> str:
    """What the remote `edgehybrid` is told."""
    return shlex.join([str(board.edgehybrid), "build", board.folder, *options.words])


def explain(connection: Connection, code: int, log: list[str]) -> EdgeHybridError:
    """A failed remote build as the error that it was there."""
    text = "\n".join(log)
    found = re.search(r"^error: (.*)\n +why: (.*)\n +fix: (.*)$", text, re.MULTILINE)
    if found and code in _ERRORS:
        return _ERRORS[code](f"{connection.host}: {found[1]}", why=found[2], fix=f"on {connection.host}: {found[3]}")
    last = next((line for line in reversed(log) if line.strip()), "it said nothing")
    if code in (-1, 137):
        return ResourceError(
            f"the build on {connection.host} was killed",
            why=f"most likely out of memory; last line: {last.strip()}",
            fix="close other programs there, or give the builder less with --workspace",
        )
    return StageError(
        f"the build on {connection.host} failed",
        why=f"exit {code}: {last.strip()}",
        fix=f"ssh {connection.host} and read build.log in the folder named above",
    )


def fetch(connection: Connection, board: Board, folder: Path, files: Mapping[str, str]) -> None:
    """Fetch files of the board's folder into `folder`, each checked against its SHA-256."""
    for name, digest in files.items():
        if Path(name).name != name or name in (".", ".."):
            raise ArtifactError(
                f"{connection.host} sent a manifest that is not trusted",
                why=f"entry {name!r} is no plain name",
                fix="nothing was taken; find out who wrote to that board",
            )
        connection.pull(f"{board.folder}/{name}", folder / name, digest, lambda done: _tell(done, done))


def manifest_there(connection: Connection, board: Board) -> dict[str, object]:
    """The manifest of the bundle on the board."""
    try:
        found = json.loads(connection.run(f"cat {shlex.quote(board.folder)}/manifest.json"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise ArtifactError(f"{connection.host} has no usable manifest", why="it lists no files", fix="build again")
    return found


def build_with_trtexec(
    connection: Connection,
    board: Board,
    bundle: Path,
    fetched: Path,
    target: Target,
    precision: Precision,
    options: EngineOptions,
) -> tuple[EngineBuild, EngineBuild | None]:
    """Engine and control from the board's `trtexec`.

    Args:
        connection: To the board.
        board: As found, with the bundle pushed.
        bundle: The folder here.
        fetched: Where the engines go.
        target: Its dialect decides whether the graph fixes its types.
        precision: Of the bundle.
        options: Of the builder.

    Raises:
        UsageError: An option that only edgehybrid can honour there.
        StageError: trtexec failed.
    """
    if options.dla_core is not None:
        raise UsageError(
            "--dla needs edgehybrid on the board", why="trtexec was found there alone", fix="install edgehybrid there"
        )
    made = _trtexec(connection, board, bundle, fetched, "model.onnx", "engine.plan", target, precision, options)
    control = None
    if (bundle / "control.onnx").is_file():
        control = _trtexec(connection, board, bundle, fetched, "control.onnx", "control.plan", target, "fp16", options)
    return made, control


def _trtexec(
    connection: Connection,
    board: Board,
    bundle: Path,
    fetched: Path,
    model: str,
    plan: str,
    target: Target,
    precision: Precision,
    options: EngineOptions,
) -> EngineBuild:
    """One engine."""
    tool = shlex.quote(str(board.trtexec))
    words = [
        f"--onnx={model}",
        f"--saveEngine={plan}",
        "--profilingVerbosity=detailed",
        "--timingCacheFile=timing.cache",
    ]
    if options.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if options.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.hardware_compatible:
        words.append("--hardwareCompatibilityLevel=ampere+")
    words += ["--versionCompatible", "--excludeLeanRuntime"] if options.version_compatible else []
    words += precision_words(target, precision)
    # --buildOnly was renamed to --skipInference in 8.6
    command = f"{tool} {shlex.join(words)} $({tool} --help | grep -o -m1 -e --skipInference || echo --buildOnly)"
    code, log = build_there(connection, board, command)
    text = "\n".join(log)
    if code != 0:
        raise explain(connection, code, [line for line in log if "[E]" in line] or log)
    version = re.search(r"\[TensorRT v(\d+)\]", text)
    capability = re.search(r"Compute Capability: (\d+\.\d+)", text)
    if version is None or capability is None:
        raise StageError(
            f"trtexec on {connection.host} did not say what it built with",
            why="its log names no TensorRT version or compute capability",
            fix="install edgehybrid there, or report the log",
        )
    digest = connection.run(f"sha256sum < {shlex.quote(f'{board.folder}/{plan}')}").split()[0]
    fetch(connection, board, fetched, {plan: digest})
    release = _release(version[1])
    reason = f"built by trtexec of TensorRT {release} on {board.name}"
    mark = EngineStamp(
        flavor="tensorrt",
        version=release,
        capabilities=(capability[1],),
        driver=None,
        board=board.name,
        model_sha256=sha256_of(bundle / model),
        engine_sha256=digest,
        options=options,
    )
    kept = fetched / plan
    engine = Engine("tensorrt", "built", reason, plan, kept.stat().st_size)
    warnings = tuple(line.strip() for line in log if "[W]" in line)[-200:]
    return EngineBuild(engine, bundle / model, kept, mark, warnings)


def precision_words(target: Target, precision: Precision) -> list[str]:
    """What trtexec is told of precisions: a strongly typed graph brings its own."""
    if target.dialect == "typed":
        return ["--stronglyTyped"]
    half = [] if precision == "fp32" else ["--fp16"]
    return [*half, "--int8"] if precision in ("int8", "mixed") else half


def _release(digits: str) -> str:
    """8502 is 8.5.2, 100300 is 10.3.0: TensorRT's version number changed its width with 10."""
    number, width = int(digits), (1000 if len(digits) <= 4 else 10_000)
    major, rest = divmod(number, width)
    return f"{major}.{rest // 100}.{rest % 100}"


def _tell(done: int, total: int) -> None:
    listener().advance(done >> 10, max(total >> 10, 1), unit="KiB")
