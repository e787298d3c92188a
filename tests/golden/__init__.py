"""Deterministic weights and reference outputs of the official networks, without weights or official code.

`<variant>.npz` and `<variant>.json.gz` were recorded by running the official implementation named in the JSON's
`source` (for CMT: huawei-noah/Efficient-AI-Backbones, cmt_pytorch, at the commit given there) on weights that are a
pure function of each parameter's name and shape (`fill_array`) and on `golden_input`. Outputs are stored for a
float32 run and a float64 run of the same float32 weights. NumPy does not promise its random streams for ever
(NEP 19): the fixtures hold the mean of every filled tensor, so that a changed stream is told from a changed network.
"""

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

HERE = Path(__file__).parent
OFFICIAL_NAMES = {
    "conformer_ti": "conformer_tiny_patch16",
    "conformer_s": "conformer_small_patch16",
    "botnet50": "botnet50_gist_224",
    "botnet26t": "botnet26t_256",
}
"""Model of the zoo -> the name its recording has, where that is another."""


@dataclass(frozen=True)
class Golden:
    """One recorded network."""

    keys: tuple[tuple[str, tuple[int, ...], str], ...]  # (name, shape, "f4" or "i8"), in state_dict order
    input_size: int
    num_classes: int
    params: int
    macs: int
    heads: dict[str, NDArray[np.float64]]  # name -> (num_classes,), float64 run; "logits" where there is one
    means: NDArray[np.float64]  # of every filled float tensor, in key order

    @property
    def logits(self) -> NDArray[np.float64]:
        """What the authors evaluate: the sum of all heads."""
        return np.sum(list(self.heads.values()), axis=0)


def recorded() -> tuple[str, ...]:
    """The models of the zoo that have a recording: a new one is found by lying here."""
    ours = {official: name for name, official in OFFICIAL_NAMES.items()}
    found = sorted(path.name.removesuffix(".json.gz") for path in HERE.glob("*.json.gz"))
    return tuple(ours.get(name, name) for name in found)


def read(variant: str) -> Golden:
    """The recording of one variant, under either of its names."""
    variant = OFFICIAL_NAMES.get(variant, variant)
    meta = json.loads(gzip.decompress((HERE / f"{variant}.json.gz").read_bytes()))
    with np.load(HERE / f"{variant}.npz", allow_pickle=False) as arrays:
        return Golden(
            keys=tuple((name, tuple(shape), code) for name, shape, code in meta["keys"]),
            input_size=meta["input_size"],
            num_classes=meta["num_classes"],
            params=meta["params"],
            macs=meta["macs"],
            heads={name: arrays[f"{name}_f64"] for name in meta["heads"]},
            means=arrays["t_mean"],
        )


def fill(module: nn.Module) -> None:
    """Overwrite every parameter and buffer of a float32 module by the rule of `fill_array`."""
    state = module.state_dict()
    filled = {k: torch.from_numpy(fill_array(k, tuple(v.shape), v.dtype)) for k, v in state.items()}
    module.load_state_dict({k: v.reshape(state[k].shape) for k, v in filled.items()}, strict=True)


def fill_array(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> NDArray[np.generic]:
    """One tensor as a function of its name: computed in float64, rounded once to float32.

    Gains and variances lie near 1, biases and means near 0, matrices keep the variance of what passes through,
    relative positions are N(0, 1) so that a mistake in them shows.
    """
    if not dtype.is_floating_point:
        return np.zeros(shape, np.int64)
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    if name.endswith(".bn.running_var"):
        a = 0.5 + 0.5 * rng.random(shape)
    elif name.endswith("bn3.weight"):
        a = 0.25 + 0.5 * rng.random(shape)
    elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")) or "layer_scale" in name:
        a = 0.5 + rng.random(shape)
    elif "relative_pos" in name:
        a = rng.standard_normal(shape)
    elif len(shape) <= 1:
        a = 0.1 * rng.standard_normal(shape)
    else:
        a = rng.standard_normal(shape) * np.sqrt(1.0 / np.prod(shape[1:], dtype=np.float64))
    return np.asarray(a, np.float64).astype(np.float32)


def run_double(module: nn.Module, variant: Golden) -> list[NDArray[np.float64]]:
    """The outputs of a network for the recorded weights and image in float64, after checking that they are those.

    Args:
        module: float32 and made for the recorded size; it is filled, and converted to float64.
        variant: The recording.

    Returns:
        Each output of the one image, (classes,).
    """
    fill(module.eval())
    state = module.state_dict()
    means = [state[name].double().mean().item() for name, _, code in variant.keys if code == "f4"]
    np.testing.assert_allclose(means, variant.means, atol=1e-6, err_msg="NumPy's random stream has changed")
    with torch.inference_mode():
        found = module.double()(torch.from_numpy(golden_input(variant.input_size)).double())
    return [head[0].numpy() for head in (found if isinstance(found, tuple) else (found,))]


def list_keys(module: nn.Module) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """What `Golden.keys` would be for a module."""
    codes = {torch.float32: "f4", torch.int64: "i8"}
    return tuple((name, tuple(v.shape), codes[v.dtype]) for name, v in module.state_dict().items())


def golden_input(size: int) -> NDArray[np.float32]:
    """The image (1, 3, size, size) that every recording was made with."""
    rng = np.random.Generator(np.random.Philox(key=2026))
    return rng.standard_normal((1, 3, size, size)).astype(np.float32)
