"""Hybrids and baselines of timm through every stage: export, rewrites, both quantizations, NVIDIA's compiler.

    python benchmarks/timm_models.py [--only NAME ...] [--size PX] [--output FILE]
    python benchmarks/timm_models.py --every --size 128 --output benchmarks/results/timm_every.json
    python benchmarks/timm_models.py --table

At the input size that timm publishes, with seeded weights of which none is at its initial value, so no accuracy.
`--every` takes the smallest model of every architecture that timm has a file for, up to 60 M parameters, and those that
refuse `--size` at the published one. As some networks are chaotic with such weights, what the rewrites change is put
beside what the last bit of the image does. A stage that fails is written down with its words. Writes
`benchmarks/results/timm_models.json` after every model; `--table` prints a table of it, from which that of
`edgehybrid/zoo/README.md` is made.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests: seeded weights, stand-ins where torchvision is missing

from plain import choose_ranges

from edgehybrid import (
    calibrator,
    dataset,
    device,
    engine,
    exporter,
    linter,
    placement,
    quantizer,
    resources,
    rewrites,
    zoo,
)
from edgehybrid.errors import EdgeHybridError, UsageError
from edgehybrid.graph import Graph
from edgehybrid.graph.counting import count_macs
from edgehybrid.records import Plan, Preprocess
from edgehybrid.runtime import open_runner
from edgehybrid.store import write_atomic
from tests.golden import fill
from tests.no_torchvision import stand_in

RESULT = Path(__file__).parent / "results" / "timm_models.json"
NAMES = (
    *("resnet18", "convnext_atto", "mobilevit_xxs", "efficientformer_l1", "coatnet_nano_rw_224"),
    *("maxvit_rmlp_pico_rw_256", "levit_128s", "edgenext_xx_small", "deit_tiny_patch16_224"),
    "swin_tiny_patch4_window7_224",
)
CALIBRATED = 8
"""Photographs behind the int8 ranges; the compiler's verdict does not depend on them."""
TARGET = "orin-nano-8gb"
LARGEST = 60e6
"""Parameters of a model that stands for its architecture."""


def main() -> None:
    """Take each model through, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=NAMES, metavar="NAME")
    parser.add_argument("--every", action="store_true", help="the smallest model of every architecture")
    parser.add_argument("--size", type=int, help="px, of every model; as published by default")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="print the table and do nothing else")
    options = parser.parse_args()
    document = json.loads(options.output.read_bytes()) if options.output.is_file() else {"models": {}}
    if options.table:
        print(make_table(document["models"]))
        return
    stand_in()
    document["device"] = dataclasses.asdict(device.state(0))
    names = smallest() if options.every else options.only
    for name in names:
        found = document["models"][name] = take(name, options.size)
        write_atomic(options.output, json.dumps(document, indent=1).encode() + b"\n")
        print(row(name, found), flush=True)
    sys.exit(int(any("failed" in document["models"][name] for name in names)))


def smallest() -> list[str]:
    """The smallest model of each of timm's files that has a usable one, none of those made for tests."""
    import timm

    found = []
    for file in timm.list_modules():
        sizes = {name: count(name) for name in timm.list_models(module=file) if not name.startswith("test_")}
        usable = {name: size for name, size in sizes.items() if size <= LARGEST}
        found += [min(usable, key=usable.__getitem__)] if usable else []
    return found


def count(name: str) -> float:
    """Parameters of one of timm's models; infinitely many where timm cannot make it here."""
    import timm

    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    except Exception as error:  # foreign code, and some asks for libraries or the network
        print(f"{name}: {type(error).__name__}", file=sys.stderr)
        return float("inf")


def take(name: str, size: int | None) -> dict[str, object]:
    """What each stage says of one model."""
    found: dict[str, object] = {}
    try:
        try:
            module, spec = zoo.load(f"timm/{name}", input_size=size)
        except UsageError:
            module, spec = zoo.load(f"timm/{name}")
        fill(module)
        found |= {"px": spec.preprocess.size, "params": sum(p.numel() for p in module.parameters())}
        examine(exporter.trace(module, spec), spec.preprocess, found)
    except EdgeHybridError as error:
        found["failed"] = str(error)
    return found


def examine(exported: Graph, preprocess: Preprocess, found: dict[str, object]) -> None:
    """What rewrites, both quantizations, the linter and the compiler say of a float32 graph, added to `found`.

    Raises:
        EdgeHybridError: A stage failed.
    """
    images = dataset.load("photos", limit=CALIBRATED)
    batches = list(images.batches(preprocess, 1))
    rewritten, lines = rewrites.apply(exported)
    found |= {"macs": count_macs(exported), "rewrites": [line for line in lines if ": 0 " not in line]}
    found["rewritten_vs_exported"] = compare(exported, rewritten, batches)
    found["last_bit_of_image"] = compare(exported, exported, batches, [np.nextafter(x, np.inf) for x in batches])
    kept = placement.keep_float32(rewritten, calibrator.find_peaks(rewritten, iter(batches)))
    plan = Plan("typed", (*placement.plan(rewritten, "typed").decisions, *kept))
    ranges = choose_ranges(rewritten, plan, images, batches)
    found["float32"] = len(kept)
    int8 = quantizer.quantize(rewritten, ranges, plan)
    found["lint_errors"] = [x.rule for x in linter.check(int8).issues if x.severity == "error"]
    for precision, typed in (("int8", int8), ("fp16", quantizer.to_fp16(rewritten, plan))):
        found[precision] = compile_typed(typed, precision)


def compare(
    before: Graph, after: Graph, batches: list[np.ndarray], batches_after: list[np.ndarray] | None = None
) -> float:
    """Largest difference of the first output over the photographs, relative to its largest value."""
    with tempfile.TemporaryDirectory() as folder:
        logits = []
        for label, model, images in (("before", before, batches), ("after", after, batches_after or batches)):
            path = Path(folder) / f"{label}.onnx"
            path.write_bytes(model.to_bytes())
            with open_runner(path, threads=1) as runner:
                logits.append(np.concatenate([next(iter(runner.run({model.input.name: x}).values())) for x in images]))
    want, got = logits
    return float(np.abs(got - want).max() / np.abs(want).max())


def compile_typed(typed: Graph, precision: str) -> dict[str, object]:
    """What TensorRT-RTX's compiler says to a typed graph for the target, and how long it thinks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(typed.to_bytes())
        begin = time.perf_counter()
        made, _ = engine.build(path, resources.load_target(TARGET), None, precision=precision)
        seconds = time.perf_counter() - begin
    return {"status": made.status, "reason": made.reason, "seconds": seconds}


def make_table(models: dict[str, dict]) -> str:
    """As that of `edgehybrid/zoo/README.md`, with a verdict per precision."""
    head = "| model | px | params | GMAC | rewritten vs exported | image's last bit | int8 | fp16 |\n"
    head += "|---|---|---|---|---|---|---|---|"
    return "\n".join([head, *(row(name, found) for name, found in models.items())])


def row(name: str, found: dict) -> str:
    """One line of the table; a failure in its own words."""
    if "failed" in found:
        return f"| {name} | {found['failed'].splitlines()[0]} |"
    verdicts = [
        "accepted" if found[p]["status"] == "checked" else f"{found[p]['status']}: {found[p]['reason']}"
        for p in ("int8", "fp16")
    ]
    sizes = (str(found["px"]), f"{found['params'] / 1e6:.2f} M", f"{found['macs'] / 1e9:.2f}")
    changes = [format(found[key], ".1e") for key in ("rewritten_vs_exported", "last_bit_of_image")]
    return f"| {' | '.join([name, *sizes, *changes, *verdicts])} |"


if __name__ == "__main__":
    main()
