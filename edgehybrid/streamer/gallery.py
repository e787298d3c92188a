"""Keep the newest answer for whoever looks, and what happened since they looked last."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgehybrid.streamer.capture import Health
from edgehybrid.streamer.network import Answer, Network, Subject


@dataclass(frozen=True)
class Sight:
    """What there is to see at one moment.

    Attributes:
        number: Grows with every answer; equal numbers are the same picture.
        answer: The newest one; None before the first.
        late: Whether it was too old when it was there.
        worst_age_ms: Of all answers since the last look.
        worst_inference_ms: Likewise.
    """

    number: int
    answer: Answer | None
    late: bool
    worst_age_ms: float
    worst_inference_ms: float


class Gallery:
    """A watcher that costs the inference thread nothing but an assignment.

    Args:
        subject: For labels and variants.
        network: Told which variant to run.
        source: What is shown of the address.
        live: Whether frames age.
        synthetic: Whether no camera saw them.
        max_age: Seconds.

    Attributes:
        health: How the connection is.
        figures: Gives rates and counters, as JSON can hold them.
        device: Gives what is known of the machine, name -> value.
    """

    def __init__(
        self, subject: Subject, network: Network, source: str, *, live: bool, synthetic: bool, max_age: float
    ) -> None:
        self._subject, self._network = subject, network
        self._facts = {"source": source, "live": live, "synthetic": synthetic, "max_age_ms": max_age * 1e3}
        self._lock = threading.Lock()
        self._sight = Sight(0, None, False, 0.0, 0.0)
        self.health = Health("connecting")
        self.figures: Callable[[], Mapping[str, object]] = dict
        self.device: Callable[[], Mapping[str, object]] = dict

    def answered(self, answer: Answer, *, late: bool) -> None:
        """Keep it."""
        with self._lock:
            old = self._sight
            age, inference = max(old.worst_age_ms, answer.age_ms), max(old.worst_inference_ms, answer.inference_ms)
            self._sight = Sight(old.number + 1, answer, late, age, inference)

    def changed(self, health: Health) -> None:
        """Keep it."""
        self.health = health

    @property
    def number(self) -> int:
        """Of the newest answer."""
        return self._sight.number

    def look(self) -> Sight:
        """What there is to see; the worst times start anew."""
        with self._lock:
            seen = self._sight
            self._sight = Sight(seen.number, seen.answer, seen.late, 0.0, 0.0)
            return seen

    def choose(self, name: str) -> None:
        """Run another variant.

        Raises:
            UsageError: There is none of that name.
        """
        self._network.choose(name)

    def introduction(self) -> dict[str, object]:
        """What a page must know once."""
        variants = []
        for one in self._subject.variants:
            drop, fidelity, latency = one.drop, one.fidelity, one.latency
            variants.append(
                {
                    "name": one.name,
                    "backend": one.backend,
                    "drop": None if drop is None else {"points": drop.points, "ci95": list(drop.ci95)},
                    "agreement": None
                    if fidelity is None or fidelity.agreement is None
                    else {"percent": fidelity.agreement, "n": fidelity.n},
                    "p50_ms": None if latency is None else latency.p50,
                    "measured_on": one.measured_on,
                }
            )
        return {
            "kind": "introduction",
            **self._facts,
            "engine": self._subject.title,
            "trained": self._subject.trained,
            "variants": variants,
        }

    def state(self) -> dict[str, object]:
        """What changes without a frame: the connection, the variant, the counters, the device."""
        health = self.health
        return {
            "kind": "state",
            "phase": health.phase,
            "title": health.title,
            "reason": health.reason,
            "retry_s": health.retry_s,
            "variant": self._network.current.name,
            "wanted": self._network.wanted,
            "problem": self._network.problem,
            "figures": dict(self.figures()),
            "device": dict(self.device()),
        }

    def caption(self, sight: Sight) -> dict[str, object]:
        """What belongs to one picture."""
        answer = sight.answer
        if answer is None:
            return {}
        return {
            "id": answer.frame.id,
            "ran": answer.variant,
            "age_ms": answer.age_ms,
            "inference_ms": answer.inference_ms,
            "worst_age_ms": sight.worst_age_ms,
            "worst_inference_ms": sight.worst_inference_ms,
            "late": sight.late,
            "seen_ms": (time.monotonic() - answer.frame.captured) * 1e3,
            "top": [[self._subject.label(number), share] for number, share in answer.top],
        }
