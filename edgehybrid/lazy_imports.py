"""Let a library that we need load another that it does not need for us only when that one is used."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_IMPORTER, _COMPLETE = "onnx_ir", "Model"
"""A library, and a name that it has once its own import is done."""
_DEFERRED = ("onnx_ir._symbolic_shapes", "sympy")
"""What onnx-ir computes with dimensions that are not numbers, which graphs here never have: 36 MiB and 0.3 s."""


class _Finder(MetaPathFinder):
    """Finds `_DEFERRED` while `_IMPORTER` is being imported, and nothing at any other time."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A module that is loaded when something in it is first asked for."""
        importer = sys.modules.get(_IMPORTER)
        if fullname not in _DEFERRED or importer is None or hasattr(importer, _COMPLETE):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def install() -> None:
    """Defer from now on; a module that is loaded already stays."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
