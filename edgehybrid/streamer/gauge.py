"""Read the machine every few seconds while a stream runs: what the page shows of it, and mean power."""

import threading
from collections.abc import Callable

from edgehybrid import device
from edgehybrid.printable import counted
from edgehybrid.records import DeviceState

INTERVAL_S = 3.0


class Gauge:
    """A context with a thread that reads; costs a few milliseconds per interval.

    Args:
        threads: Of the runner.
        read: Takes a reading; a test passes its own.
        interval: Seconds.
    """

    def __init__(
        self, threads: int, read: Callable[[int], DeviceState] = device.state, interval: float = INTERVAL_S
    ) -> None:
        self._read, self._threads, self._interval = read, threads, interval
        self.first = self.now = read(threads)
        self._watts, self._samples = 0.0, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gauge", daemon=True)

    def mean_watts(self) -> float | None:
        """Mean power of the whole board, of readings at equal distances; None where nothing measures it."""
        return self._watts / self._samples if self._samples else None

    def rows(self) -> dict[str, str]:
        """What a page shows: name -> value, and last what this machine does not tell."""
        now = self.now
        clocks = ", ".join(f"{name} {mhz:,.0f}" for name, mhz in now.clocks_mhz.items() if "_" not in name)
        cause = [
            name for name, count in (now.throttle or {}).items() if count > (self.first.throttle or {}).get(name, 0)
        ]
        hot = sorted({*cause, *now.cooling})
        told = {
            "temperature": None if now.temperature_c is None else f"{now.temperature_c:.0f} °C",
            "power": None if now.power_w is None else f"{now.power_w:.1f} W",
            "power mode": now.power_mode,
            "clocks": f"{clocks} MHz" if clocks else None,
            "load": None if now.load is None else f"{now.load:.1f} processes in the last minute",
            "free memory": None if now.memory_free_gib is None else f"{now.memory_free_gib:.1f} GiB",
            "held down by": ", ".join(hot) or None,
        }
        missing = [name for name in list(told)[:-1] if told[name] is None]
        rows = {"machine": f"{now.name}, {now.threads} of {counted(now.cores, 'core')} for the network"}
        rows |= {name: value for name, value in told.items() if value is not None}
        return rows | ({"not told here": ", ".join(missing)} if missing else {})

    def __enter__(self) -> "Gauge":
        self._take(self.first)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(self._interval):
            self._take(self._read(self._threads))

    def _take(self, state: DeviceState) -> None:
        self.now = state
        if state.power_w is not None:
            self._watts += state.power_w
            self._samples += 1
