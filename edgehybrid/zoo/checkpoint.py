"""Read a checkpoint file as data: tensors by name, no matter how they were wrapped, and nothing executed."""

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgehybrid.errors import WeightsError

WRAPPERS = ("model_ema", "state_dict_ema", "model", "state_dict", "module")
"""Keys under which training scripts keep the weights, best first: the official CMT evaluation prefers the moving
average where there is one."""
PREFIXES = ("module.", "_orig_mod.")
"""Put before every name by data-parallel training and by torch.compile."""
LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""How torch.save files began before torch 1.6."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    tensors: Mapping[str, Tensor]  # on the CPU; floats as stored
    wrapper: str  # "model_ema", "model", ...: where they were; empty where they were not wrapped
    metadata: Mapping[str, str]  # of a safetensors file


class TrainingOptions:
    """Stands in for argparse.Namespace, which official checkpoints keep beside the weights; never read."""


def read(path: Path) -> Checkpoint:
    """Read a checkpoint by what it contains, whatever its name.

    Args:
        path: A safetensors file, or one written by torch.save (zip or older).

    Raises:
        WeightsError: Not readable, not a checkpoint, truncated, or a pickle that wants to run code (nothing of
            it ran).
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise WeightsError(
            f"cannot read {path}", why=error.strerror or type(error).__name__, fix="check the path and its permissions"
        ) from error
    if head.startswith((b"PK\x03\x04", LEGACY_MAGIC)):
        return _read_torch(path)
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**32:
        return _read_safetensors(path)
    found = "an empty file" if not head else f"a file that begins with {head[:8]!r}"
    raise WeightsError(
        f"{path} is not a checkpoint",
        why=f"found {found}, needed safetensors or the output of torch.save",
        fix="check that the download was complete and not a web page",
    )


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error
    return Checkpoint(_strip(tensors), "", metadata)


def _read_torch(path: Path) -> Checkpoint:
    """Unpickle with an allow-list: tensors, containers of plain values and the options stand-in."""
    try:
        _refuse_inflation(path)
        with torch.serialization.safe_globals([(TrainingOptions, "argparse.Namespace")]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except Exception as error:  # a damaged pickle or zip raises whatever its bytes happen to mean
        raise _damaged(path, error) from error
    return _unwrap(path, content)


def _refuse_inflation(path: Path) -> None:
    """torch.save stores without compression; a zip that grows when opened is a trap for the memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("its zip entries are compressed, torch.save never does that")


def _unwrap(path: Path, content: object) -> Checkpoint:
    """Descend through wrapper keys to the mapping from names to tensors."""
    wrapper: list[str] = []
    while isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        inner = next((k for k in WRAPPERS if isinstance(content.get(k), Mapping) and content[k]), None)
        if inner is None:
            if tensors:
                return Checkpoint(_strip(tensors), ".".join(wrapper), {})
            break
        wrapper.append(inner)
        content = content[inner]
    found = f"keys {', '.join(map(str, list(content)[:4]))}" if isinstance(content, Mapping) else type(content).__name__
    raise WeightsError(
        f"{path} holds no weights",
        why=f"found {found or 'nothing'}, needed tensors by name, or one of {', '.join(WRAPPERS)} holding them",
        fix="save model.state_dict() and load that",
    )


def _strip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that every name has."""
    for prefix in PREFIXES * 2:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return dict(tensors)


def _refused(path: Path, error: pickle.UnpicklingError) -> WeightsError:
    """What torch's restricted unpickler stumbled over, without its advice to switch the restriction off."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    detail = re.search(r"WeightsUnpickler error: (.*)", str(error))
    return WeightsError(
        f"{path} was refused",
        why=f"its pickle asks for {wanted[1]}, which is code and not weights; nothing was run"
        if wanted
        else f"its pickle is damaged or more than weights: {detail[1] if detail else _first_sentence(error)}",
        fix="get a .safetensors file, or save only model.state_dict() and load that",
    )


def _damaged(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path} is damaged",
        why=_first_sentence(error),
        fix="copy or download it again; a truncated transfer is the usual cause",
    )


def _first_sentence(error: Exception) -> str:
    """What kind of error, and the first sentence of what it says: torch goes on with guesses."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0].split('. ')[0]}" if text else type(error).__name__
