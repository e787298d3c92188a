"""What each rewrite saves in a TensorRT-RTX engine: kernels, fused attention and memory, counted without a GPU.

    python benchmarks/kernels.py [--models NAME ...] [--as-written]
    python benchmarks/kernels.py --zero-points --output benchmarks/results/kernels-zero-points.json

For the smallest variant of each family, float16: the simplified export, all rewrites, all but one, and one alone, each
compiled for Ampere on this CPU. The compiler's own list of the kernels it chose is counted (it prints one line per
kernel when asked for detailed profiling), and its figure for activation memory is taken. Fewer kernels and less memory
are not a latency, but they are what a GPU is asked to do, and they do not depend on how busy this machine is. Writes
`benchmarks/results/kernels.json` after each model; models not asked for stay in it as they were.

With `--zero-points`, int8 instead: without them, and with one at every tensor that can have one.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from plain import choose_ranges

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests.official, tests.golden

SMALLEST = ("cmt_ti", "conformer_ti", "conv2former_n", "botnet26t")
RESULT = Path(__file__).parent / "results" / "kernels.json"
CALIBRATED = 8
"""Photographs behind the int8 ranges, on which no kernel depends."""
SYNCHRONISATION = {"signal", "wait"}
"""Lines of the compiler's list that run nothing."""


def main() -> None:
    """Compile every variant of every model in a process of its own, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=SMALLEST, metavar="NAME")
    parser.add_argument("--as-written", action="store_true", help="export the layers as the authors write them")
    parser.add_argument("--zero-points", action="store_true", help="count what zero points cost an int8 engine")
    parser.add_argument("--size", type=int, help="input side, px; the published one by default")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--compile", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile is not None:
        sys.stdout.write(json.dumps(compile_and_count(options.compile)) + "\n")
        return
    document: dict[str, object] = json.loads(options.output.read_text()) if options.output.exists() else {}
    for model in options.models:
        sys.stdout.write(f"\n{model}\n{'rewrites':26} {'kernels':>8} {'attention':>10} {'memory MiB':>11}\n")
        rows = []
        variants = (
            make_shifted(model, options.size)
            if options.zero_points
            else make_variants(model, as_written=options.as_written)
        )
        for name, content in variants:
            found = compile_apart(content)
            rows.append({"rewrites": name, **found})
            memory = found["activation_bytes"] / 2**20
            sys.stdout.write(f"{name:26} {found['kernels']:8} {found['fused_attention']:10} {memory:11.2f}\n")
            sys.stdout.flush()
        precision = "int8" if options.zero_points else "fp16"
        document[model] = {"as_written": options.as_written, "precision": precision, "rows": rows}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        temporary = options.output.with_suffix(".part")
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        temporary.replace(options.output)


def make_variants(model: str, *, as_written: bool) -> list[tuple[str, bytes]]:
    """The float16 graphs to compare, by which rewrites were applied."""
    from edgehybrid import exporter, quantizer, rewrites, zoo
    from tests import official
    from tests.golden import fill

    module, spec = zoo.load(model)
    fill(module)
    with official.write(model) if as_written else contextlib.nullcontext():
        graph = exporter.trace(module, spec)
    _, lines = rewrites.apply(graph)
    found = [line.split(":")[0] for line in lines if ": 0 sites" not in line]
    every = [name for name, _ in rewrites.REWRITES]
    chosen: dict[str, list[str]] = {"none": [], "all": every}
    chosen |= {f"all but {name}": [other for other in every if other != name] for name in found}
    chosen |= {name: [name] for name in found}
    return [(name, quantizer.to_fp16(rewrites.apply(graph, only=only)[0]).to_bytes()) for name, only in chosen.items()]


def make_shifted(model: str, size: int | None) -> list[tuple[str, bytes]]:
    """The int8 graph without zero points, and with one at every tensor that int8 layers read and that can have one."""
    from edgehybrid import dataset, exporter, placement, quantizer, rewrites, tuner, zoo
    from edgehybrid.graph.products import find_products
    from edgehybrid.graph.structure import computed
    from edgehybrid.tuner.shifting import find_site
    from tests.golden import fill

    module, spec = zoo.load(model, "random", input_size=size)
    fill(module)
    graph, _ = rewrites.apply(exporter.trace(module, spec))
    images = dataset.load("photos", limit=CALIBRATED)
    int8 = {product.node for product in find_products(graph, placement.plan(graph, "fp32")).values()}
    sites = {name: find_site(value) for name, value in computed(graph).items()}
    shifted = {
        name: 0.5
        for name, site in sites.items()
        if site is not None and int8.intersection(product.node for product in site.products)
    }
    found = []
    for name, points in (("int8", {}), (f"{len(shifted)} zero points", shifted)):
        made = tuner.apply_zero_points(graph, points)
        plan = placement.plan(made, "fp32")
        ranges = choose_ranges(made, plan, images, images.batches(spec.preprocess, 4))
        found.append((name, quantizer.quantize(made, ranges, placement.plan(made, "typed")).to_bytes()))
    return found


def compile_apart(content: bytes) -> dict[str, Any]:
    """`compile_and_count` in a child: NVIDIA's libraries end the process on some errors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        done = subprocess.run(
            [sys.executable, __file__, "--compile", str(path)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(f"the compiler failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compile_and_count(path: Path) -> dict[str, object]:
    """Compile for Ampere and count what the compiler says it chose."""
    import tensorrt_rtx_bindings as trt  # what the extra `rtx` brings, and tensorrt_rtx stands on

    lines: list[str] = []

    class Log(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:
            lines.append(message)

    logger = Log()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise SystemExit(parser.get_error(0).desc())
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit("the compiler returned no engine")
    single = [line for text in lines for line in text.splitlines()]
    listed = [line for line in single if line.startswith("Name: ") and "LayerType: " in line]
    kinds = Counter(line.split("LayerType: ")[1].split(",")[0] for line in listed)
    memory = [line for line in single if line.startswith("Total Activation Memory: ")]
    if not listed or not memory:
        raise SystemExit("this release of the compiler does not list what it chose")
    return {
        "kernels": sum(count for kind, count in kinds.items() if kind not in SYNCHRONISATION),
        "kinds": dict(kinds),
        "fused_attention": sum(1 for line in listed if line.startswith("Name: _gemm_mha")),
        "activation_bytes": int(memory[-1].split()[3]),
        "engine_bytes": int(engine.nbytes),
        "compiler": f"TensorRT-RTX {trt.__version__}",
    }


if __name__ == "__main__":
    main()
