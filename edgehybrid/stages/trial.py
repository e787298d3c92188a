"""Run engines on the machine that has just built them: how long they take, and what they answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehybrid.dataset import Images
from edgehybrid.errors import NotReadyError
from edgehybrid.records import BenchOptions, DeviceState, EngineBuild, Latency, Precision, Preprocess, Runnable
from edgehybrid.stages.answers import predict
from edgehybrid.stages.measurement import LATENCY, Benched
from edgehybrid.stages.run import Run, place_of
from edgehybrid.stages.timing import time_networks
from edgehybrid.store import decode, sha256_of, to_json, write_atomic

OPTIONS = BenchOptions(end_to_end=False)
"""As `edgehybrid bench` times a network alone."""


@dataclass(frozen=True)
class Trial:
    """What engines did here; empty where this machine does not run them."""

    latencies: Mapping[Precision, Latency] = field(default_factory=dict)
    logits: Mapping[Precision, NDArray[np.float32]] = field(default_factory=dict)
    state: DeviceState | None = None  # of the machine when it took the latencies; None: it took none
    reason: str | None = None  # why it does not, although it has a GPU


def try_engines(
    run: Run,
    products: Mapping[Precision, EngineBuild],
    pictures: Images,
    scored: Images | None,
    preprocess: Preprocess,
    state: DeviceState,
    outputs: Mapping[str, int] | None = None,
) -> Trial:
    """Time engines in turns, then have each answer the evaluation images.

    Args:
        run: The chain.
        products: The engine asked for and, beside int8, its fp16 control.
        pictures: The first ones are what is timed.
        scored: What the engines answer; None: nothing.
        preprocess: Of the model.
        state: Of this machine before the work began, whose own load says nothing.
        outputs: As of `predict`.

    Returns:
        What they did; nothing, with the reason, where the GPU or a library here cannot run them.

    Raises:
        ArtifactError: An engine that was built for this GPU does not load.
        StageError: An engine failed while running.
    """
    from edgehybrid import device, engine

    built = {p: (product.plan, product.stamp) for p, product in products.items() if product.plan and product.stamp}
    capability = device.capability()
    if capability is None or not built:
        return Trial()
    for _, stamp in built.values():
        if not engine.fits_gpu(stamp, capability):
            needed = ", ".join(stamp.capabilities)
            return Trial(reason=f"not run here: it needs compute capability {needed}, this GPU has {capability}")
    files = {p: Runnable(plan, stamp.flavor, stamp.options.dla_core) for p, (plan, stamp) in built.items()}
    place = f"{place_of(state)} {capability} {device.probe_cuda().version}"
    try:
        for plan, stamp in built.values():
            engine.try_loading(plan, stamp, board=state.name, rebuild="edgehybrid build")
        timed = _time(run, files, place, pictures, preprocess, state)
        if scored is None:
            return Trial(timed.latencies, state=timed.state)
        logits = {
            precision: predict(run, f"{precision} engine", file, scored, preprocess, place=place, outputs=outputs)
            for precision, file in files.items()
        }
    except NotReadyError as error:  # the engine stands; what it is worth is for whoever installs what is missing
        return Trial(reason=f"not run here: {error.what} ({error.why}); {error.fix}")
    return Trial(timed.latencies, logits, timed.state)


def _time(
    run: Run,
    files: Mapping[Precision, Runnable],
    place: str,
    pictures: Images,
    preprocess: Preprocess,
    state: DeviceState,
) -> Benched:
    """Latency by events on the device."""

    def produce(folder: Path) -> None:
        timed = time_networks(files, OPTIONS, preprocess, pictures)
        write_atomic(folder / LATENCY, to_json(Benched({p: found.latency for p, found in timed.items()}, state)))

    engines: dict[str, object] = {precision: sha256_of(file.path) for precision, file in files.items()}
    folder = run.do("bench engines", {**engines, "place": place, "preprocess": preprocess, "options": OPTIONS}, produce)
    return decode(Benched, json.loads((folder / LATENCY).read_bytes()))
