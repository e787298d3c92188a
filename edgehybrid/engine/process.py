"""The parent's side: start the child, pass its progress on, and say in words how it ended.

NVIDIA's libraries end the process on some errors (a missing driver among them), so they are only ever loaded in a
child: `python -m edgehybrid.engine`, which answers with one JSON document on its stdout.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from edgehybrid.engine.order import ERROR, PROGRESS, REFUSAL, REFUSED, Made, Order
from edgehybrid.errors import EdgeHybridError, NotReadyError, ResourceError, StageError
from edgehybrid.progress import listener
from edgehybrid.store import decode, write_atomic

_NO_MEMORY = re.compile(r"out ?of ?memory|OutOfMemory|bad_alloc|cudaErrorMemoryAllocation|insufficient memory", re.I)
_LOG_LINES = 200


def make(order: Order, output: Path | None) -> Made:
    """Have a child carry out the order; the engine arrives at `output` in one piece."""
    with tempfile.TemporaryDirectory(prefix="edgehybrid-engine-") as folder:
        engine = Path(folder) / "engine.plan"
        made = ask(order if output is None else replace(order, engine=str(engine)))
        if output is not None:
            write_atomic(output, engine)
    return made


def ask(order: Order) -> Made:
    """Run the child and read its answer.

    Raises:
        NotReadyError: The module's libraries do not load.
        StageError: The graph is refused, or the child crashed.
        ResourceError: Out of memory.
    """
    root = str(Path(__file__).parents[2])  # where the package lies: the child must find the same one
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        [sys.executable, "-m", "edgehybrid.engine", json.dumps(asdict(order))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": paths},
    )
    with child:
        try:
            log = _follow(child.stderr or ())
            answer = child.stdout.read() if child.stdout else ""
            child.wait()
        except BaseException:  # Ctrl-C above all: no builder may outlive the command
            child.kill()
            raise
    if child.returncode == 0:
        return replace(decode(Made, json.loads(answer)), log=tuple(log[-_LOG_LINES:]))
    raise _explain(order, child.returncode, log)


def last_words(log: Iterable[str]) -> str:
    """What the parser refused, else the last errors of NVIDIA's log, else its last lines; on one line."""
    lines = [line.strip() for line in log if line.strip()]
    for mark in (REFUSAL, ERROR):
        marked = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        if marked:
            return " | ".join(marked[-2:])
    return " | ".join(lines[-3:]) or "it left no message"


def _follow(stderr: Iterable[str]) -> list[str]:
    """Lines of the child's log; its progress goes to the listener as it comes."""
    log = []
    for line in stderr:
        if line.startswith(PROGRESS):
            phase, done, total = json.loads(line.removeprefix(PROGRESS))
            listener().advance(done, total, unit=f"steps of '{phase}'")
        elif line.strip():
            log.append(line.strip())
    return log


def _explain(order: Order, code: int, log: list[str]) -> EdgeHybridError:
    """What the exit code of the child means, with the last words of NVIDIA's log."""
    name = Path(order.onnx or str(order.engine)).name
    doing = "loading" if order.task == "load" else "building"
    why = last_words(log)
    smaller = "close other programs, give the builder less with --workspace, or use a smaller batch or input size"
    if code == -signal.SIGKILL:
        return ResourceError(
            f"{order.module} was killed while {doing} {name}", why="signal 9, most likely out of memory", fix=smaller
        )
    if code < 0:
        return StageError(
            f"{order.module} crashed while {doing} {name}",
            why=f"{signal.Signals(-code).name}; {why}",
            fix="check the driver with `edgehybrid doctor`; if it is fine, report this with the ONNX file",
        )
    if code == NotReadyError.exit_code:
        return NotReadyError(
            f"{order.module} is installed and cannot be loaded",
            why=why,
            fix="install NVIDIA's libraries of the same release beside the Python module",
        )
    shortage = next((line for line in reversed(log) if _NO_MEMORY.search(line)), None)
    if shortage is not None:
        return ResourceError(f"{order.module} ran out of memory {doing} {name}", why=shortage, fix=smaller)
    if code == REFUSED:
        return StageError(
            f"{order.module} refuses {name}",
            why=why,
            fix="change what is named above, or report this with the ONNX file",
        )
    return StageError(f"{order.module} failed on {name}", why=why, fix="report this with the ONNX file")
