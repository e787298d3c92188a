"""Read how much power a board draws: INA3221 and INA238 sensors of a Jetson, else a line of NVIDIA's tegrastats."""

import re
import selectors
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgehybrid.device.machine import number, read

TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails that carry the whole board: Orin Nano, NX, TX2 and Xavier NX; Nano; Thor. AGX Xavier and AGX Orin have none."""

TEGRASTATS = "usr/bin/tegrastats"
_ANSWER_SECONDS = 3.0

_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+(?:mW)?)?(?!\S)")
_HEAT = re.compile(r"(?<!\S)([A-Za-z]\w*)@(-?[\d.]+)C(?:/-?[\d.]+C)?(?!\S)")
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d+)%)?(?:@\[?([\d,]+)\]?)?")
_MEMORY = re.compile(r"\bRAM (\d+)/(\d+)MB")
_OFF = -200.0  # degrees Celsius; a sensor that is switched off says -256


@dataclass(frozen=True)
class Draw:
    """What the power sensors say at one moment."""

    rails_mw: Mapping[str, float]
    source: str  # "ina3221", "ina3221 + ina238", "tegrastats"

    @property
    def counted(self) -> tuple[str, ...]:
        """The rails that make up the whole board: its total rail, or all of them where it has none."""
        totals = tuple(rail for rail in TOTAL_RAILS if rail in self.rails_mw)
        return totals[:1] or tuple(self.rails_mw)

    @property
    def watts(self) -> float:
        """Of the whole board."""
        return sum(self.rails_mw[rail] for rail in self.counted) / 1e3


@dataclass(frozen=True)
class Stats:
    """One line of tegrastats."""

    rails_mw: Mapping[str, float]
    temperatures_c: Mapping[str, float]
    gpu_percent: int | None
    gpu_mhz: tuple[int, ...] | None
    memory_mb: tuple[int, int] | None  # used, total


def read_draw(root: Path) -> Draw | None:
    """Power of every rail now; None where nothing measures it."""
    rails: dict[str, float] = {}
    chips: list[str] = []
    for chip, found in (("ina3221", _ina3221(root)), ("ina3221x", _ina3221x(root)), ("ina238", _ina238(root))):
        if found:
            chips.append(chip)
            rails |= found
    if rails:
        return Draw(rails, " + ".join(chips))
    if (root / TEGRASTATS).is_file():
        stats = parse_tegrastats(tegrastats_line((str(root / TEGRASTATS), "--interval", "100")) or "")
        if stats.rails_mw:
            return Draw(stats.rails_mw, "tegrastats")
    return None


def parse_tegrastats(line: str) -> Stats:
    """Rails, temperatures, GPU load and memory in a line of tegrastats, from Jetson Linux 32 to 39.

    Of several figures per sensor (now, average, peak) the first is taken, which is now. The PMIC's temperature is a
    constant, and one of -256 belongs to a sensor that is switched off: neither is one. A rail NC is not connected.

    Args:
        line: As printed, with or without its time stamp; anything unknown in it is passed over.
    """
    heat = {name: float(value) for name, value in _HEAT.findall(line) if number(value) is not None}
    gpu, memory = _GPU.search(line), _MEMORY.search(line)
    clocks = tuple(int(mhz) for mhz in gpu[2].split(",") if mhz) if gpu and gpu[2] else None
    return Stats(
        rails_mw={name: float(value) for name, value in _RAIL.findall(line) if name != "NC"},
        temperatures_c={name: c for name, c in heat.items() if c > _OFF and name != "PMIC"},
        gpu_percent=int(gpu[1]) if gpu and gpu[1] else None,
        gpu_mhz=clocks,
        memory_mb=(int(memory[1]), int(memory[2])) if memory else None,
    )


def tegrastats_line(command: tuple[str, ...]) -> str | None:
    """The first line that tegrastats prints, after which it is stopped; None where it prints none in time."""
    try:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    except OSError:
        return None
    with child:
        try:
            assert child.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(child.stdout, selectors.EVENT_READ)
                ready = selector.select(_ANSWER_SECONDS)
            line = child.stdout.readline() if ready else b""
        finally:
            child.kill()
    return line.decode(errors="replace").strip() or None


def _ina3221(root: Path) -> dict[str, float]:
    """Rail -> mW on JetPack 5 and newer: millivolts times milliamperes of up to three channels per chip."""
    rails = {}
    for chip in _chips(root, "ina3221"):
        for channel in (1, 2, 3):
            label = (read(chip / f"in{channel}_label") or "").strip()
            volts = number(read(chip / f"in{channel}_input") or "")
            amperes = number(read(chip / f"curr{channel}_input") or "")
            if label and label != "NC" and volts is not None and amperes is not None:
                rails[label] = volts * amperes / 1e3
    return rails


def _ina3221x(root: Path) -> dict[str, float]:
    """Rail -> mW on JetPack 4, whose own driver computes the product."""
    rails = {}
    for chip in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*")):
        for channel in range(3):
            label = (read(chip / f"rail_name_{channel}") or "").strip()
            power = number(read(chip / f"in_power{channel}_input") or "")
            if label and label != "NC" and power is not None:
                rails[label] = power
    return rails


def _ina238(root: Path) -> dict[str, float]:
    """Rail -> mW of the sensor at the input of a Thor, which has no label of its own; microwatts in the kernel.

    Source:
        Documentation/hwmon/ina238.rst of Linux; that Thor's one is the rail VIN: tegrastats prints it beside three
        of an INA3221. Not tried on a board.
    """
    powers = [number(read(chip / "power1_input") or "") for chip in _chips(root, "ina238")]
    known = [power for power in powers if power is not None]
    return {"VIN": known[0] / 1e3} if len(known) == 1 else {f"VIN_{i}": mw / 1e3 for i, mw in enumerate(known)}


def _chips(root: Path, name: str) -> list[Path]:
    """Folders of a hardware monitor's name, in a fixed order."""
    folders = sorted((root / "sys/class/hwmon").glob("hwmon*"))
    return [folder for folder in folders if (read(folder / "name") or "").strip() == name]
