"""Watch the machine while something runs: power, heat, clocks and throttling of a window of time."""

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from edgehybrid.device.board import is_jetson
from edgehybrid.device.machine import clocks_mhz
from edgehybrid.device.power import Draw, read_draw
from edgehybrid.device.sensors import cooling, memory_used_gib, missing_clocks, reasons, temperatures_c, throttle_events
from edgehybrid.records import Conditions, Power

INTERVAL = 0.2
"""Seconds between two readings."""


@dataclass(frozen=True)
class Reading:
    """What every sensor says at one moment."""

    draw: Draw | None = None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    throttle: Mapping[str, int] | None = None
    cooling: Mapping[str, int] = field(default_factory=dict)
    memory_gib: float | None = None


class Sampler:
    """A context that reads the sensors at its beginning, at its end, and at an interval in between.

    `power` and `conditions` say afterwards what was seen. For energy per call, exactly one network must run inside,
    again and again.

    Args:
        interval: Seconds between readings, taken by a thread; None reads at both ends only, which disturbs nothing
            that is timed in between.
        root: Where /sys and /proc are found; a test passes a fake tree.
        sense: Takes one reading; of `root` by default.
        clock: Seconds, monotonic; a test passes a fake.
    """

    def __init__(
        self,
        interval: float | None = INTERVAL,
        *,
        root: Path = Path("/"),
        sense: Callable[[], Reading] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.readings: list[tuple[float, Reading]] = []
        self._interval, self._root, self._clock = interval, root, clock
        self._sense = sense or (lambda: take_reading(root))
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Sampler":
        self.take()
        if self._interval is not None:
            self._thread = threading.Thread(target=self._watch, name="sampler", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        self.take()

    def take(self) -> None:
        """Read every sensor now."""
        now = self._clock()
        self.readings.append((now, self._sense()))

    @property
    def seconds(self) -> float:
        """From the first reading to the last."""
        return self.readings[-1][0] - self.readings[0][0] if self.readings else 0.0

    def mean_watts(self) -> float | None:
        """Power of the whole board, averaged over time; None where nothing measures it."""
        points = [(at, reading.draw.watts) for at, reading in self.readings if reading.draw is not None]
        if not points:
            return None
        span = points[-1][0] - points[0][0]
        if span <= 0:
            return sum(watts for _, watts in points) / len(points)
        pairs = itertools.pairwise(points)
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs) / span

    def power(self, calls: int, *, idle_w: float | None = None) -> Power | None:
        """Power and energy of the window; None where nothing measures them.

        Args:
            calls: How often the network ran in the window, and nothing else did.
            idle_w: Power just before, with nothing running.
        """
        draws = [reading.draw for _, reading in self.readings if reading.draw is not None]
        mean = self.mean_watts()
        if mean is None or calls < 1:
            return None
        return Power(
            mean_w=mean,
            max_w=max(draw.watts for draw in draws),
            idle_w=idle_w,
            energy_mj=1e3 * mean * self.seconds / calls,
            seconds=self.seconds,
            samples=len(draws),
            calls=calls,
            rails=draws[0].counted,
            source=draws[0].source,
        )

    def conditions(self, power: Power | None = None) -> Conditions:
        """What the machine did during the window, and why a figure is missing."""
        readings = [reading for _, reading in self.readings]
        hottest = [max(reading.temperatures_c.values()) for reading in readings if reading.temperatures_c]
        names = {name for reading in readings for name in reading.clocks_mhz if not name.endswith("_max")}
        held = {name for reading in readings for name in reading.cooling}
        memory = [reading.memory_gib for reading in readings if reading.memory_gib is not None]
        before, after = (readings[0].throttle, readings[-1].throttle) if readings else (None, None)
        found = Conditions(
            seconds=self.seconds,
            readings=len(readings),
            temperature_c=max(hottest, default=None),
            clocks_mhz={n: min(r.clocks_mhz[n] for r in readings if n in r.clocks_mhz) for n in sorted(names)},
            throttle=None
            if before is None or after is None
            else {cause: max(0, count - before.get(cause, 0)) for cause, count in after.items()},
            cooling={name: max(r.cooling.get(name, 0) for r in readings) for name in sorted(held)},
            memory_gib=max(memory, default=None),
            power=power,
        )
        why = reasons(self._root, jetson=is_jetson(self._root))
        missing = {"temperature_c": found.temperature_c, "throttle": found.throttle, "power_w": found.power}
        unknown = {name: why[name] for name, value in missing.items() if value is None}
        if power is None and any(reading.draw is not None for reading in readings):
            unknown["power_w"] = "several networks took turns in this window: its power is none of theirs"
        return replace(found, unknown=unknown | missing_clocks(found.clocks_mhz, self._root))

    def _watch(self) -> None:
        while not self._done.wait(self._interval):
            self.take()


def take_reading(root: Path = Path("/")) -> Reading:
    """Read every sensor once; what a machine does not tell stays empty."""
    return Reading(
        draw=read_draw(root),
        temperatures_c=temperatures_c(root),
        clocks_mhz=clocks_mhz(root),
        throttle=throttle_events(root),
        cooling=cooling(root),
        memory_gib=memory_used_gib(root),
    )


def tells_power(root: Path = Path("/")) -> bool:
    """Whether anything here measures power."""
    return read_draw(root) is not None
