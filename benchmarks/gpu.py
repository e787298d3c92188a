"""Everything that only a GPU can prove, in one command.

    python benchmarks/gpu.py [--steps NAME ...] [--only EXPRESSION] [--seconds 4] [--models NAME ...]
                             [--modelopt FOLDER]

1. `pytest -m gpu`: engines of every family in fp32, fp16 and int8 against ONNX Runtime, graphs against plain calls to
   the bit, a hundred times opened and closed with memory flat.
2. The user's road: `edgehybrid build`, `bench`, `evaluate` and `verify` of the bundled weights on this machine.
3. `runner_overhead.py`: the runner over bare enqueue and synchronisation.
4. `engines.py`: engines beside ONNX Runtime, torch, torch.compile, trtexec and Model Optimizer's Q/DQ.

Each step is a process of its own, and one that fails does not stop the others. A GPU that is lent for minutes can take
them in pieces: `--steps tests --only cmt_ti`, then the next; what was not asked for stays in the file. Writes
`benchmarks/results/gpu.json` (what was run, how it ended, its last lines) and, beside it, what each step writes. Needs
TensorRT, pycuda and cuda-bindings; on a PC or a server `pip install tensorrt pycuda cuda-bindings` brings them (pycuda
wants nvcc).
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgehybrid import device

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BUNDLE = HERE.parent / "builds" / "gpu"
STEPS = ("tests", "doctor", "build", "verify", "bench", "evaluate", "overhead", "engines")
LAST_LINES = 40
NOTHING_RAN = 5
"""Exit code of a test run in which every test was skipped: it proves nothing."""


def main() -> None:
    """Run every step, print how each ended, write; exit code 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, metavar="NAME", help=", ".join(STEPS))
    parser.add_argument("--only", default="", metavar="EXPRESSION", help="which tests, as pytest -k takes it")
    parser.add_argument("--seconds", default="4", help="timed per contender")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="of engines.py; else every family")
    parser.add_argument("--modelopt", type=Path, help="of engines.py")
    parser.add_argument("--limit", type=float, default=900, help="seconds after which a step is ended")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    options = parser.parse_args()
    if device.capability() is None:
        raise SystemExit(f"no CUDA device ({device.probe_cuda().reason}): there is nothing to prove here")
    gpu = device.probe_cuda().gpus[0]
    options.output = options.output.resolve()  # every step runs in the repository
    options.output.parent.mkdir(parents=True, exist_ok=True)
    before: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
    document: dict[str, Any] = {"gpu": gpu.name, "driver": device.probe_cuda().version}
    document["device"] = dataclasses.asdict(device.state(0))
    document["steps"] = before["steps"] if before.get("gpu") == gpu.name else {}
    for name, words, kept in steps(options):
        if name in options.steps:
            step = document["steps"][name] = run(name, words, kept, options.limit)
            options.output.write_text(json.dumps(document, indent=1) + "\n")
            last = step["last"][-1] if step["last"] else ""
            sys.stdout.write(f"{name:9} exit {step['exit_code']} after {step['seconds']:.0f} s: {last}\n")
            sys.stdout.flush()
    sys.exit(int(any(document["steps"][name]["exit_code"] for name in options.steps)))


def steps(options: argparse.Namespace) -> list[tuple[str, list[str], Path | None]]:
    """Name, command, and where its stdout goes if that is a document."""
    folder, images, bundle = options.output.parent, ["--eval", "fashion-mnist"], str(BUNDLE)
    tests = ["-m", "pytest", "-m", "gpu", "-rs", *(["-k", options.only] if options.only else [])]
    weights = ["--model", "cmt_ti", "--weights", "fashion-mnist", "--input-size", "64"]
    sets = ["--calib", "fashion-mnist", *images]
    model_words = ["--models", *options.models] if options.models else []
    peer_words = [] if options.modelopt is None else ["--modelopt", str(options.modelopt)]
    ours = [sys.executable, "-m", "edgehybrid"]
    json_words = ["--json", "--quiet"]

    def script(name: str) -> list[str]:
        output = str(folder / f"{name}.json")
        return [sys.executable, str(HERE / f"{name}.py"), "--seconds", options.seconds, "--output", output]

    return [
        ("tests", [sys.executable, *tests, "tests/runtime/test_trt_gpu.py"], None),
        ("doctor", [*ours, "doctor", "--json"], folder / "gpu-doctor.json"),
        ("build", [*ours, "build", *weights, *sets, "--output", bundle, *json_words], folder / "gpu-build.json"),
        ("verify", [*ours, "verify", bundle], None),
        (
            "bench",
            [*ours, "bench", bundle, "--cuda-graph", "--layers", "10", *json_words],
            folder / "gpu-bench.json",
        ),
        ("evaluate", [*ours, "evaluate", bundle, *images, *json_words], folder / "gpu-evaluate.json"),
        ("overhead", script("runner_overhead"), None),
        ("engines", [*script("engines"), *model_words, *peer_words], None),
    ]


def run(name: str, words: list[str], kept: Path | None, limit: float) -> dict[str, Any]:
    """One step: how it ended, how long it took, its last lines."""
    begin = time.perf_counter()
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=limit, cwd=HERE.parent)
        code, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        code, out, err = 124, str(late.stdout or ""), f"ended after {limit:.0f} s"
    if name == "tests" and code == 0 and " passed" not in out:
        code = NOTHING_RAN
    if kept is not None and code == 0:
        kept.write_text(out)
    last = [line for line in (err if kept is not None else out + err).strip().splitlines() if line.strip()]
    seconds = round(time.perf_counter() - begin, 1)
    return {"command": words, "exit_code": code, "seconds": seconds, "last": last[-LAST_LINES:]}


if __name__ == "__main__":
    main()
