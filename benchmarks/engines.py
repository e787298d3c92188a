"""Engines beside what else could run the network on the same GPU, in one run: ONNX Runtime, torch, trtexec, and peers.

    python benchmarks/engines.py [--models NAME ...] [--seconds 4] [--size PX] [--modelopt FOLDER]

For the smallest variant of each family at its published size, batch 1: engines of fp32, fp16 and int8 with this
project's runner (CUDA graph on), ONNX Runtime (its CUDA provider where it has one, else its CPU), torch eager and
torch.compile in fp32 and fp16, from host memory to host memory, all open at once and taking turns. Then the engines
alone by events on the device, beside what trtexec says of the very same files. `--modelopt` names a folder with
NAME.onnx, strongly typed Q/DQ of Model Optimizer (int8, high_precision_dtype fp16), built and timed beside ours.

What is not installed has a row that says so. Needs a GPU, TensorRT (or TensorRT-RTX and a card it has kernels for:
not Hopper, not a Jetson) and pycuda; without, it ends with a message and writes nothing. Writes
`benchmarks/results/engines.json` after each model, with the hardware.
"""

import argparse
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnxruntime
from engine_graphs import Graphs, build_engine, here, make_graphs
from figures import numbers, speedup
from numpy.typing import NDArray

from edgehybrid import benchmark, device, engine, zoo
from edgehybrid.errors import EdgeHybridError
from edgehybrid.records import Latency, Precision, Target
from edgehybrid.runtime import Runner, Splitting, TensorInfo, Tensors, open_runner

SMALLEST = ("cmt_ti", "conformer_ti", "conv2former_n", "botnet26t")
RESULT = Path(__file__).parent / "results" / "engines.json"
TRTEXEC = ("trtexec", "/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec")
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "fp32")
TORCH = {"torch eager fp32": (False, False), "torch eager fp16": (False, True)}
TORCH |= {"torch.compile fp32": (True, False), "torch.compile fp16": (True, True)}
"""Name -> compiled, half."""


def main() -> None:
    """Measure every model, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=SMALLEST, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=4.0, help="timed per contender")
    parser.add_argument("--size", type=int, help="input side, px; the published one by default")
    parser.add_argument("--modelopt", type=Path, help="folder with NAME.onnx of Model Optimizer")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    target, builders = here()
    gpu = device.probe_cuda().gpus[0]
    document: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
    document |= {"gpu": gpu.name, "compute_capability": builders.capability, "driver": device.probe_cuda().version}
    document["device"] = dataclasses.asdict(device.state(0))
    for model in options.models:
        sys.stdout.write(f"\n{model} on {gpu.name}\n")
        peer = None if options.modelopt is None else options.modelopt / f"{model}.onnx"
        with tempfile.TemporaryDirectory(prefix="edgehybrid-engines-") as name:
            graphs = make_graphs(model, Path(name), target, options.size)
            document.setdefault("models", {})[model] = measure(model, graphs, target, builders, peer, options.seconds)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        temporary = options.output.with_suffix(".part")
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        temporary.replace(options.output)


def measure(
    model: str, graphs: Graphs, target: Target, builders: engine.Builders, peer: Path | None, seconds: float
) -> dict[str, Any]:
    """Everything about one model."""
    plans, reasons = build_all(graphs, target, builders, peer)
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        for label, plan in plans.items():
            runners[f"engine {label}"] = stack.enter_context(open_runner(plan, target.backend, cuda_graph=True))
        engines = dict(runners)
        for label, opening in others(model, graphs):
            opened = try_opening(stack, opening)
            if isinstance(opened, str):
                reasons[label] = opened
            else:
                runners[label] = opened
        name, need = next(iter(runners["engine int8"].inputs.items()))
        feeds = {name: graphs.feed["input"].astype(need.dtype)}
        times = benchmark.measure_interleaved(list(runners.values()), feeds, duration=seconds)
        host = dict(zip(runners, times, strict=True))
        split = [runner for runner in engines.values() if isinstance(runner, Splitting)]
        parts = dict(zip(engines, benchmark.measure_devices(split, feeds, duration=seconds), strict=True))
    rows = [row_of(label, latency, host["engine int8"]) for label, latency in host.items()]
    found = {
        "px": graphs.size,
        "host_to_host": rows,
        "on_device": {label: {p: numbers(t.part(p)) for p in ("h2d", "compute", "d2h")} for label, t in parts.items()},
        "int8_against_fp16": speedup(parts["engine fp16"].part("compute"), parts["engine int8"].part("compute")),
        "trtexec": {label: ask_trtexec(plan, target) for label, plan in plans.items()},
        "not_measured": reasons,
    }
    if "engine modelopt int8" in parts:
        pair = parts["engine modelopt int8"].part("compute"), parts["engine int8"].part("compute")
        found["int8_against_modelopt"] = speedup(*pair)
    tell(found)
    return found


def build_all(
    graphs: Graphs, target: Target, builders: engine.Builders, peer: Path | None
) -> tuple[dict[str, Path], dict[str, str]]:
    """Engines by label, and why some are not there; int8 and fp16 must be."""
    plans: dict[str, Path] = {}
    reasons: dict[str, str] = {}
    asked: list[tuple[str, Path, Precision]] = [(p, graphs.paths[p], p) for p in PRECISIONS]
    if peer is not None and peer.is_file():
        asked.append(("modelopt int8", peer, "int8"))
    else:
        reasons["engine modelopt int8"] = "not measured: no file of Model Optimizer was given"
    for label, onnx_path, precision in asked:
        plan = graphs.paths["int8"].parent / f"{label.replace(' ', '-')}.plan"
        try:
            sys.stdout.write(f"  {label:14} {build_engine(onnx_path, target, builders, precision, plan)}\n")
            plans[label] = plan
        except EdgeHybridError as error:
            if label in ("int8", "fp16"):
                raise
            reasons[f"engine {label}"] = f"not built: {error.what}: {error.why}"[:300]
    return plans, reasons


def others(model: str, graphs: Graphs) -> Iterator[tuple[str, Any]]:
    """What else can run the float32 network here, by label: context managers that give a runner."""
    provider = "CUDA" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "CPU"
    yield f"ONNX Runtime {provider} fp32", OrtOn(graphs.paths["fp32"], provider)
    for label, (compiled, half) in TORCH.items():
        yield label, torch_on_gpu(model, graphs.size, compiled=compiled, half=half)


def try_opening(stack: ExitStack, opening: Any) -> Runner | str:
    """The runner, or why there is none."""
    try:
        runner: Runner = stack.enter_context(opening)
        return runner
    except Exception as error:  # torch, its compiler and ONNX Runtime raise what they like; it is written down
        return f"not measured: {' '.join(str(error).split())[:200]}"


class OrtOn:
    """ONNX Runtime on a provider, from host memory to host memory."""

    def __init__(self, path: Path, provider: str) -> None:
        self._path, self._provider = path, provider

    def __enter__(self) -> "OrtOn":
        wanted = f"{self._provider}ExecutionProvider"
        self._session = onnxruntime.InferenceSession(self._path, providers=[wanted])
        if self._session.get_providers()[0] != wanted:  # it falls back without a word
            raise RuntimeError(f"{wanted} did not load")
        self.inputs = {p.name: TensorInfo(tuple(p.shape), np.dtype("float32")) for p in self._session.get_inputs()}
        self.outputs = {p.name: TensorInfo(tuple(p.shape), np.dtype("float32")) for p in self._session.get_outputs()}
        return self

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        """One call."""
        return dict(zip(self.outputs, self._session.run(None, dict(feeds)), strict=True))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session


@contextmanager
def torch_on_gpu(model: str, size: int, *, compiled: bool, half: bool) -> Iterator[Runner]:
    """The module as its authors would run it on a GPU."""
    import torch

    from edgehybrid.runtime.torch import TorchRunner
    from tests.golden import fill

    if not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} has no CUDA here")
    module, _ = zoo.load(model, "random", input_size=size)
    fill(module)
    module = module.eval().cuda()

    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = module.half()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.body(images.half())

    body = Half() if half else module
    body = torch.compile(body, mode="reduce-overhead") if compiled else body
    with TorchRunner(None, module=body, shape=(1, 3, size, size), device="cuda") as runner:
        for _ in range(3):  # reduce-overhead records its CUDA graph in the first calls
            runner.run({"input": np.zeros((1, 3, size, size), np.float32)})
        yield runner


def ask_trtexec(plan: Path, target: Target) -> dict[str, object]:
    """What NVIDIA's own program says of an engine, with transfers and a CUDA graph; or why it says nothing."""
    tool = next((found for place in TRTEXEC if (found := shutil.which(place))), None)
    if tool is None or target.backend != "tensorrt":
        return {"reason": "trtexec is not installed"}
    words = [tool, f"--loadEngine={plan}", "--useCudaGraph", "--warmUp=500", "--duration=4"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    told: dict[str, object] = {}
    for line in done.stdout.splitlines():
        for key, title in (("latency_ms", "Latency"), ("compute_ms", "GPU Compute Time")):
            if found := re.search(rf"\] {title}: min = ([\d.]+) ms.* median = ([\d.]+) ms", line):
                told[key] = {"min": float(found[1]), "median": float(found[2])}
        if version := re.search(r"TensorRT version: ([\d.]+)|\[TensorRT v(\d+)\]", line):
            told["version"] = version[1] or version[2]
    if "compute_ms" not in told:
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        return {"reason": f"trtexec ended with {done.returncode}: {last[:200]}"}
    return told


def row_of(label: str, latency: Latency, ours: Latency) -> dict[str, object]:
    """One contender, and how many times as fast our int8 engine is."""
    return {"contender": label, "latency_ms": numbers(latency), "int8_is_faster_by": speedup(latency, ours)}


def tell(found: Mapping[str, Any]) -> None:
    """One model for the terminal."""
    for row in found["host_to_host"]:
        gain, p50 = row["int8_is_faster_by"]["value"], row["latency_ms"]["p50"]
        sys.stdout.write(f"  {row['contender']:24} p50 {p50:8.3f} ms   our int8 is {gain:.2f}x as fast\n")
    for label, parts in found["on_device"].items():
        said = found["trtexec"].get(label.removeprefix("engine "), {})
        trtexec = said.get("compute_ms", {}).get("median", said.get("reason"))
        sys.stdout.write(f"  {label:24} compute p50 {parts['compute']['p50']:.3f} ms, trtexec: {trtexec}\n")
    for key in ("int8_against_fp16", "int8_against_modelopt"):
        if key in found:
            sys.stdout.write(f"  {key}: {found[key]['value']:.3f}x as fast {found[key]['ci95']}\n")
    for label, reason in found["not_measured"].items():
        sys.stdout.write(f"  {label:24} {reason}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
