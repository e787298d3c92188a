"""Read targets: one TOML file each, taken at a power mode and a JetPack as in `orin-nano-8gb@15w@jp6.0`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast, get_args

from edgehybrid.errors import unknown_name
from edgehybrid.records import Dialect, Figure, PowerMode, Precision, Stack, Target
from edgehybrid.resources.tables import Table, found, home, read_toml

Backend = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]

TARGET_KEYS = ("name", "title", "backend", "dialect", "precisions", "notes", "figures", "modes", "stacks")
FIGURE_KEYS = ("value", "unit", "source", "confirmed")
MODE_KEYS = (
    "name", "id", "watts", "cpu_cores", "cpu_mhz", "gpu_mhz", "emc_mhz", "dla_mhz", "gpu_int8_dense", "default",
    "confirmed", "source",
)  # fmt: skip
STACK_KEYS = ("jetpack", "l4t", "tensorrt", "cuda", "opset_max", "dialect", "default", "confirmed", "source")

_JETPACK = "jp"
"""What tells a JetPack from a power mode after the @."""


def targets() -> tuple[str, ...]:
    """Every target by name, sorted. `auto` is no target but a choice among them."""
    return tuple(sorted(path.stem for path in home("profiles").glob("*.toml")))


def load_target(name_or_path: str | Path) -> Target:
    """Read one target.

    Args:
        name_or_path: A name of `targets()`, or a TOML file of your own: a value with a slash or ending in
            `.toml` is a path. `@` and a power mode, `@jp` and a JetPack may follow, in this order. A mode that
            only the Super configuration of a module has gives the Super profile.

    Raises:
        NotFoundError: No such name, mode or JetPack (near misses are suggested), or no such file.
        InputError: The file is not TOML, or a key is missing, unknown or holds something else than it should.
    """
    text, *choices = [str(name_or_path)] if Path(name_or_path).is_file() else str(name_or_path).split("@")
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(".toml"):
        target = _parse(Path(text))
    elif text in targets():
        target = _parse(home("profiles") / f"{text}.toml")
    else:
        raise unknown_name("target", text, targets(), "edgehybrid targets")
    super_name = f"{text}-super"
    if choices and super_name in targets() and _plain(choices[0]) not in map(_plain, _names(target)):
        raised = _parse(home("profiles") / f"{super_name}.toml")  # the same module, flashed with its Super modes
        target = raised if _plain(choices[0]) in map(_plain, _names(raised)) else target
    for choice in choices:
        is_jetpack = choice.lower().startswith(_JETPACK) and choice[len(_JETPACK) :][:1].isdigit()
        target = at_jetpack(target, choice[len(_JETPACK) :]) if is_jetpack else at_mode(target, choice)
    return target


def at_mode(target: Target, name: str) -> Target:
    """The target in one of its power modes: clocks, rates and bandwidth are those of the mode.

    Args:
        target: In no mode yet.
        name: As nvpmodel calls it, in any case, `MODE_` left out if you like.

    Raises:
        NotFoundError: It has no such mode; near misses are suggested.
    """
    modes = {_plain(mode.name): mode for mode in target.modes}
    if _plain(name) not in modes:
        known = tuple(mode.name.lower() for mode in target.modes)
        fix = f"edgehybrid targets {target.name} lists its power modes" if known else f"--target {target.name}"
        raise unknown_name(f"power mode of {target.name}", name, known, fix)
    mode = modes[_plain(name)]
    chosen = Figure(mode.name, mode.source, confirmed=mode.confirmed)
    figures = {**target.figures, "power_mode": chosen, **_rates(target, mode)}
    return replace(target, name=f"{target.name}@{_plain(name)}", mode=mode.name, figures=figures)


def at_jetpack(target: Target, version: str) -> Target:
    """The target under one JetPack: TensorRT and the dialect of the graph are that release's.

    Args:
        target: Under its default JetPack.
        version: As "6.2"; "5" takes the newest 5.x that there is a row for.

    Raises:
        NotFoundError: No row covers it.
    """
    wanted = _numbers(version)
    fitting = [stack for stack in target.stacks if _covers(stack.jetpack, wanted)]
    if not fitting or not wanted:
        known = tuple(f"{_JETPACK}{stack.jetpack.split(' to ')[-1]}" for stack in target.stacks)
        raise unknown_name(f"JetPack of {target.name}", f"{_JETPACK}{version}", known, "edgehybrid targets")
    exact = [stack for stack in fitting if wanted in map(_numbers, stack.jetpack.split(" to "))]
    stack = (exact or fitting)[-1]
    told: dict[str, str | int] = {
        "jetpack": stack.jetpack,
        "tensorrt": stack.tensorrt,
        "cuda": stack.cuda,
        "onnx_opset_max": stack.opset_max,
    }
    figures = {name: Figure(value, stack.source, confirmed=stack.confirmed) for name, value in told.items()}
    return replace(
        target,
        name=f"{target.name}@{_JETPACK}{version}",
        dialect=stack.dialect,
        jetpack=stack.jetpack,
        figures={**target.figures, **figures},
    )


def _rates(target: Target, mode: PowerMode) -> dict[str, Figure]:
    """Figures that depend on the clocks of a mode; without a value where the mode's clocks do not tell."""
    full = target.figures.get("gpu_clock_max", Figure(None, ""))
    top = full.value if isinstance(full.value, int | float) else None
    figures = {"gpu_clock_max": Figure(mode.gpu_mhz, f"power mode {mode.name}: {mode.source}", "MHz", mode.confirmed)}
    share = None if top is None or mode.gpu_mhz is None or mode.gpu_mhz > top else mode.gpu_mhz / top
    for name in ("gpu_int8_dense", "gpu_fp16_dense", "gpu_fp32_dense"):
        rate = target.figures.get(name)
        if rate is None or not isinstance(rate.value, int | float):
            continue
        if mode.gpu_int8_dense is not None:
            parts = {"gpu_int8_dense": 1.0, "gpu_fp16_dense": 0.5, "gpu_fp32_dense": 0.25}
            figures[name] = Figure(_rounded(mode.gpu_int8_dense * parts[name]), mode.source, rate.unit, mode.confirmed)
        elif share is None:
            why = f"power mode {mode.name}: no clock is known from which it would follow"
            figures[name] = Figure(None, why, rate.unit)
        else:
            source = f"derived from the clock of power mode {mode.name}; less if the mode switches SMs off, too"
            figures[name] = Figure(_rounded(rate.value * share), source, rate.unit, confirmed=share == 1.0)
    bus = target.figures.get("memory_bus", Figure(None, "")).value
    if "memory_bandwidth" in target.figures:
        known = isinstance(bus, int | float) and mode.emc_mhz is not None
        speed = _rounded(2 * (mode.emc_mhz or 0.0) * float(bus or 0) / 8e3) if known else None
        source = f"derived: 2 x EMC clock of power mode {mode.name} x bus / 8" if known else "no EMC clock is known"
        figures["memory_bandwidth"] = Figure(speed, source, "GB/s", mode.confirmed)
    return figures


def _rounded(value: float) -> float:
    """Three significant figures, which is all that a data sheet gives."""
    return float(f"{value:.3g}")


def _names(target: Target) -> tuple[str, ...]:
    return tuple(mode.name for mode in target.modes)


def _plain(mode: str) -> str:
    return mode.lower().removeprefix("mode_")


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()


def _covers(jetpack: str, wanted: tuple[int, ...]) -> bool:
    """Whether a version, given to as many places as one likes, falls into a range as "5.1.1 to 5.1.6"."""
    first, _, last = jetpack.partition(" to ")
    length = len(wanted)
    return _numbers(first)[:length] <= wanted and wanted <= (*_numbers(last or first), math.inf)[:length]


def _parse(path: Path) -> Target:
    table = Table(path, "", read_toml(path), TARGET_KEYS)
    figures = table.table("figures")
    return Target(
        name=table.text("name"),
        title=table.text("title"),
        backend=cast(Backend, table.choice("backend", get_args(Backend))),
        dialect=cast(Dialect, table.choice("dialect", get_args(Dialect))),
        precisions=cast(tuple[Precision, ...], table.choices("precisions", get_args(Precision))),
        figures={key: _parse_figure(figures.table(key, FIGURE_KEYS)) for key in figures.names()},
        notes=table.texts("notes"),
        modes=tuple(_parse_mode(row) for row in table.rows("modes", MODE_KEYS)),
        stacks=tuple(_parse_stack(row) for row in table.rows("stacks", STACK_KEYS)),
    )


def _parse_figure(table: Table) -> Figure:
    """No value means unknown; a source is there even so, to say what was looked for and where."""
    value = table.value("value")
    if isinstance(value, float) and not math.isfinite(value):
        value = []  # refused below: an unknown figure has no value rather than a NaN
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        raise table.wrong("value", found(table.value("value")), "give text or a number, or leave it out")
    return Figure(value, table.text("source"), table.text("unit", ""), table.flag("confirmed", True))


def _parse_mode(table: Table) -> PowerMode:
    number = table.value("id")
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 0):
        raise table.wrong("id", found(number), "give a whole number, or leave it out")
    cores = table.number("cpu_cores")
    return PowerMode(
        name=table.text("name"),
        id=number,
        watts=table.number("watts"),
        cpu_cores=None if cores is None else int(cores),
        cpu_mhz=table.number("cpu_mhz"),
        gpu_mhz=table.number("gpu_mhz"),
        emc_mhz=table.number("emc_mhz"),
        dla_mhz=table.number("dla_mhz"),
        gpu_int8_dense=table.number("gpu_int8_dense"),
        source=table.text("source"),
        default=table.flag("default", False),
        confirmed=table.flag("confirmed", True),
    )


def _parse_stack(table: Table) -> Stack:
    return Stack(
        jetpack=table.text("jetpack"),
        l4t=table.text("l4t", ""),
        tensorrt=table.text("tensorrt"),
        cuda=table.text("cuda"),
        opset_max=table.count("opset_max"),
        dialect=cast(Dialect, table.choice("dialect", get_args(Dialect))),
        source=table.text("source"),
        default=table.flag("default", False),
        confirmed=table.flag("confirmed", True),
    )
