"""What to run next, and what to run to get the same again."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from edgehybrid.records import EngineOptions, Recipe, Target
from edgehybrid.sizes import spelled

DEFAULTS = {
    "batch": 1,
    "mean": None,
    "std": None,
    "interpolation": None,
    "preprocess": None,
    "labels": None,
    "calib": "photos",
    "method": "mse",
    "ranges": None,
    "equalize": "all",
    "refine": "biases",
    "rounding": "nearest",
    "profile": None,
    "seed": 0,
}
"""What a command says only where it was asked for."""
COUNTS = ("num-classes", "num-calib", "num-eval")
"""Likewise, where none said is as many as there are."""


def command(recipe: Recipe) -> str:
    """What to run to get this report again, every default spelled out."""
    options = {
        "model": recipe.model,
        "weights": recipe.weights,
        "num-classes": recipe.num_classes,
        "input-size": spelled(recipe.input_size),
        "crop-pct": recipe.crop_pct,
        "mean": recipe.mean,
        "std": recipe.std,
        "interpolation": recipe.interpolation,
        "preprocess": recipe.preprocess,
        "labels": recipe.labels,
        "batch": recipe.batch,
        "precision": recipe.precision,
        "target": recipe.target,
        "calib": recipe.calib,
        "num-calib": recipe.num_calib,
        "method": recipe.method,
        "ranges": recipe.ranges,
        "equalize": recipe.equalize,
        "refine": recipe.refine,
        "rounding": recipe.rounding,
        "eval": recipe.eval,
        "num-eval": recipe.num_eval or None,
        "max-drop": recipe.max_drop,
        "profile": recipe.profile,
        "seed": recipe.seed,
    }
    return shlex.join(
        ["edgehybrid", "build", *(w for k, v in options.items() if v is not None for w in (f"--{k}", str(v)))]
    )


def bench_command(folder: Path) -> str:
    """What measures the engine of a bundle on the device that built it."""
    return shlex.join(["edgehybrid", "bench", str(folder)])


def next_command(
    recipe: Recipe,
    target: Target,
    folder: Path,
    *,
    counts: Mapping[str, int | None],
    options: EngineOptions,
    has_engine: bool,
) -> str:
    """What to run next to get closer to a number on the board.

    Args:
        recipe: Of the bundle.
        target: It was built for.
        folder: Of the bundle.
        counts: What was said of the numbers in `COUNTS`, which a recipe holds as they came out.
        options: Of the engine's builder.
        has_engine: An engine was built, so this is the device that runs it.
    """
    if target.backend == "tensorrt" and has_engine:
        return bench_command(folder)
    if target.backend == "tensorrt":
        return shlex.join(["edgehybrid", "build", str(folder), "--host", "ssh://user@BOARD", *options.words])
    words = ["--model", recipe.model]
    words += [] if recipe.model.endswith(".onnx") else ["--weights", recipe.weights]
    words += ["--input-size", spelled(recipe.input_size), "--crop-pct", str(recipe.crop_pct)]
    words += ["--precision", recipe.precision]
    for name, default in DEFAULTS.items():
        value = getattr(recipe, name)
        words += [] if value == default else [f"--{name}", str(value)]
    words += ["--eval", recipe.eval] if recipe.eval else []
    words += [] if recipe.max_drop is None else ["--max-drop", f"{recipe.max_drop:g}"]
    for name in COUNTS:
        words += [] if counts.get(name) is None else [f"--{name}", str(counts[name])]
    return shlex.join(["edgehybrid", "build", *words, "--target", "orin-nano-8gb"])
