"""Engines of a bundle that may be loaded here: vouched for, built for this machine, and survived by a child."""

import shlex
from pathlib import Path

from edgehybrid import engine, store
from edgehybrid.delivery.names import CONTROL_PLAN, PLAN, STAMPS, TORCH_PLAN
from edgehybrid.delivery.opening import json_of, names_in, recipe_of, unreadable
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
    bundle, rebuild = store.open_bundle(folder), _rebuild(folder)
    stamped = _stamped(bundle, rebuild)
    both = path.is_dir() or (with_control and path.name != CONTROL_PLAN)
    wanted = [entry for entry in stamped if both or entry[1] == path.name]
    if not wanted or not (path.is_dir() or any(path.name == name for _, name, _ in wanted)):
        raise ArtifactError(f"{path} is not in the manifest of {folder}", why="nobody vouches for it", fix=rebuild)
    found: dict[Precision, Runnable] = {}
    notes = []
    for precision, name, mark in wanted:
        _, note = engine.try_loading(bundle.file(name), mark, board=board, rebuild=rebuild)
        found[precision] = Runnable(bundle.file(name), mark.flavor, mark.options.dla_core)
        notes.append(note)
    return found, tuple(dict.fromkeys(note for note in notes if note))


def verify_engines(folder: Path, board: str) -> tuple[str, ...]:
    """Names of a bundle's engines that were built for this machine, after a child has loaded each.

    Those of another machine or release cannot be tried here.

    Raises:
        ArtifactError: One does not load where it should.
    """
    bundle, rebuild = store.open_bundle(folder), _rebuild(folder)
    mine = [entry for entry in _stamped(bundle, rebuild) if engine.fits_machine(entry[2])]
    for _, name, mark in mine:
        engine.try_loading(bundle.file(name), mark, board=board, rebuild=rebuild)
    return tuple(name for _, name, _ in mine)


def _rebuild(folder: Path) -> str:
    return shlex.join(["edgehybrid", "build", str(folder)])


def _stamped(bundle: store.Bundle, rebuild: str) -> list[tuple[Precision, str, EngineStamp]]:
    """Precision, file and stamp of the engine asked for, and of its fp16 control, as far as there are files.

    Raises:
        ArtifactError: An engine that engine.json does not describe.
    """
    facts, names = json_of(bundle, STAMPS), names_in(bundle)
    told: list[tuple[Precision, object, str]] = [
        (recipe_of(bundle).precision, facts.get("stamp"), TORCH_PLAN if TORCH_PLAN in names else PLAN)
    ]
    control = facts.get("control")
    told += [("fp16", control.get("stamp"), CONTROL_PLAN)] if isinstance(control, dict) else []
    found = []
    for precision, stamp, name in told:
        if name in names and stamp is None:
            raise ArtifactError(
                f"{bundle.path / name} has no stamp", why="engine.json does not describe it", fix=rebuild
            )
        if name in names:
            try:
                found.append((precision, name, store.decode(EngineStamp, stamp)))
            except ValueError as error:
                raise unreadable(bundle, STAMPS, error) from error
    return found
