"""Engines of a bundle that may be loaded here: vouched for, built for this machine, and survived by a child."""

import json
import shlex
from pathlib import Path

from edgehybrid import engine, store
from edgehybrid.delivery.names import CONTROL_PLAN, PLAN, TORCH_PLAN
from edgehybrid.delivery.opening import names_in, recipe_of
from edgehybrid.errors import ArtifactError, NotFoundError
from edgehybrid.records import EngineStamp, Precision, Runnable


def has_engine(path: Path) -> bool:
    """Whether a path is an engine, or a bundle that holds one."""
    if path.is_dir():
        return bool({PLAN, TORCH_PLAN} & names_in(store.open_bundle(path)))
    return path.suffix in (".plan", ".engine", ".pt2")


def loadable_engines(
    path: Path, board: str, *, with_control: bool = False
) -> tuple[dict[Precision, Runnable], tuple[str, ...]]:
    """Engines that may be loaded here: their hash is the manifest's, their stamp fits, and a child survived them.

    Args:
        path: A bundle, or one of its engines.
        board: Name of this machine.
        with_control: Beside an int8 engine that was named, its fp16 control, too.

    Returns:
        Precision -> file and backend, the engine asked for first and its fp16 control after it; and what to know.

    Raises:
        ArtifactError: An engine that no bundle vouches for, or that was built for another machine.
        NotReadyError: Its TensorRT is not installed.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise NotFoundError(f"no file {path}", why="found no engine there", fix="edgehybrid build BUNDLE")
    bundle = store.open_bundle(folder)
    facts, names = json.loads(bundle.file("engine.json").read_bytes()), names_in(bundle)
    rebuild = shlex.join(["edgehybrid", "build", str(folder)])
    asked = TORCH_PLAN if TORCH_PLAN in names else PLAN
    known: list[tuple[Precision, object, str]] = [(recipe_of(bundle).precision, facts, asked)]
    if facts.get("control") is not None:
        known.append(("fp16", facts["control"], CONTROL_PLAN))
    named = {entry[2] for entry in known} if path.is_dir() or (with_control and path.name == asked) else {path.name}
    wanted = [entry for entry in known if entry[2] in names and entry[2] in named]
    if not wanted:
        raise ArtifactError(f"{path} is not in the manifest of {folder}", why="nobody vouches for it", fix=rebuild)
    found: dict[Precision, Runnable] = {}
    notes = []
    for precision, entry, name in wanted:
        mark = store.decode(EngineStamp, entry["stamp"]) if isinstance(entry, dict) else None
        if mark is None:
            raise ArtifactError(
                f"{bundle.path / name} has no stamp", why="engine.json does not describe it", fix=rebuild
            )
        _, note = engine.try_loading(bundle.file(name), mark, board=board, rebuild=rebuild)
        found[precision] = Runnable(bundle.file(name), mark.flavor, mark.options.dla_core)
        notes.append(note)
    return found, tuple(dict.fromkeys(note for note in notes if note))
