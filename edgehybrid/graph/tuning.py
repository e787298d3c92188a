"""What tuning found for single nodes, kept as a file between the stage that tunes and the one that quantizes."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Tuning:
    """What the quantizer is to write for a node other than by default; arrays by the node's label."""

    scales: dict[str, NDArray[np.float32]]  # (out,), of the weight
    levels: dict[str, NDArray[np.int8]]  # (groups, out / groups, in), of the weight
    biases: dict[str, NDArray[np.float32]]  # (out,), added to the bias


def save_tuning(tuning: Tuning, path: Path) -> None:
    """Write an .npz; equal tunings give equal bytes."""
    buffer = io.BytesIO()
    fields: dict[str, Mapping[str, NDArray[np.generic]]] = {
        "scales": tuning.scales,
        "levels": tuning.levels,
        "biases": tuning.biases,
    }
    arrays = {f"{kind}:{label}": found[label] for kind, found in fields.items() for label in sorted(found)}
    packed: dict[str, NDArray[np.generic]] = {f"a{i}": array for i, array in enumerate(arrays.values())}
    np.savez(buffer, allow_pickle=False, names=np.array(list(arrays), np.str_), **packed)
    path.write_bytes(buffer.getvalue())


def load_tuning(path: Path) -> Tuning:
    """Read what `save_tuning` wrote into the cache."""
    tuning = Tuning({}, {}, {})
    with np.load(path, allow_pickle=False) as file:
        for i, name in enumerate(file["names"].tolist()):
            kind, _, label = str(name).partition(":")
            getattr(tuning, kind)[label] = file[f"a{i}"]
    return tuning
