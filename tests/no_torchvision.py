"""The few names of torchvision that timm imports, for machines where the real one cannot be had without CUDA."""

import enum
import importlib
import importlib.machinery
import sys
import types

MODULES = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.models",
    "torchvision.models.feature_extraction",
    "torchvision.ops",
    "torchvision.ops.misc",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.utils",
)
InterpolationMode = enum.Enum(
    "InterpolationMode",
    {name: name.lower() for name in ("NEAREST", "NEAREST_EXACT", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS")},
)


class Placeholder(types.ModuleType):
    """A module whose every other name is an empty class: timm only subclasses them, or asks `isinstance`."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def stand_in() -> None:
    """Let timm be imported where torchvision is missing or built for another torch; models do not compute with it."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):  # "operator torchvision::nms does not exist", of a CUDA build beside CPU torch
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    else:
        return
    for name in MODULES:
        module = Placeholder(name)
        module.__path__ = []
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    for name in ("torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name].InterpolationMode = InterpolationMode  # type: ignore[attr-defined]
