"""Every attribute of NVIDIA's objects that the source touches is in every release claimed, or is asked for first."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgehybrid
from tests.engine.fake_tensorrt import NAMES, RELEASES, exists, names_of

ROOT = Path(edgehybrid.__file__).parent
SOURCES = {
    "engine/bridge.py": 30,
    "runtime/trt/__init__.py": 12,
    "runtime/trt/lane.py": 2,
    "runtime/trt/layers.py": 7,
}
"""File that speaks NVIDIA's API -> how many of its attributes the walk must see at least."""

RECEIVERS = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "layer": "ILayer",
    "tensor": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "cache": "ITimingCache",
    "serialized": "IHostMemory",
    "fault": "ParserError",
    "severities": "ILogger.Severity",
}
"""What variables are called in the sources -> the class of what they hold."""

MODULE = {"Builder", "OnnxParser", "Runtime", "__version__"}
"""Of the module itself, in every release: classes that are constructed."""


def touched(tree: ast.AST) -> Iterator[tuple[str, str, ast.Attribute]]:
    """(class, member, where) of every attribute of NVIDIA's; class "" for the module itself."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr == "__init__":
            continue
        holder = node.value
        if isinstance(holder, ast.Name) and holder.id == "trt":
            yield "", node.attr, node
        elif isinstance(holder, ast.Name) and holder.id in RECEIVERS:
            yield RECEIVERS[holder.id], node.attr, node
        elif isinstance(holder, ast.Attribute) and isinstance(holder.value, ast.Name) and holder.value.id == "trt":
            yield holder.attr, node.attr, node
        elif isinstance(holder, ast.Attribute) and holder.attr.lstrip("_") in RECEIVERS:
            yield RECEIVERS[holder.attr.lstrip("_")], node.attr, node


def asked_for(function: ast.AST, line: int) -> set[str]:
    """Names that the function asks `has` about before a line."""
    return {
        str(node.args[1].value)
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "has"
        and isinstance(node.args[1], ast.Constant)
        and node.lineno <= line
    }


def functions(tree: ast.Module) -> Iterator[ast.AST]:
    """Top-level functions; methods of top-level classes one by one."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from (part for part in node.body if isinstance(part, ast.FunctionDef))
        else:
            yield node


def offences(source: str, releases: tuple[str, ...]) -> list[str]:
    """Attributes that some release does not have and nobody asked for."""
    found = []
    for function in functions(ast.parse(source)):
        for kind, name, node in touched(function):
            if name in MODULE and kind in ("", "Runtime"):
                continue
            full = f"{kind}.{name}" if kind else name
            known = asked_for(function, node.lineno)
            if full in known or any(ask.startswith(f"{full}.") for ask in known):
                continue
            lacking = [r for r in releases if not (name in names_of(r, kind) if kind else exists(r, name))]
            if lacking:
                found.append(f"line {node.lineno}: {full} is not in {', '.join(lacking)}")
    return found


@pytest.mark.parametrize("path", SOURCES)
def test_every_attribute_is_in_range_or_asked_for(path: str) -> None:
    source = (ROOT / path).read_text()
    assert len(list(touched(ast.parse(source)))) >= SOURCES[path]
    assert offences(source, RELEASES) == []


@pytest.mark.parametrize("path", SOURCES)
def test_what_is_asked_for_exists_somewhere(path: str) -> None:
    """A misspelt name would never be there, and its branch never taken."""
    for name in asked_for(ast.parse((ROOT / path).read_text()), 10**6):
        kind, _, member = name.rpartition(".")
        present = [r for r in RELEASES if (member in names_of(r, kind) if kind else exists(r, name))]
        assert present, name
        assert len(present) < len(RELEASES), f"{name} is in every release: no need to ask"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("config.max_workspace_size = 1", "IBuilderConfig.max_workspace_size is not in 10.0.1"),
        ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16 is not in 11.0.0"),
        ("config.progress_monitor = 1", "IBuilderConfig.progress_monitor is not in 8.5.3.1, 8.6.1"),
        ("engine.num_bindings", "ICudaEngine.num_bindings"),
        ("config.invented = 1", "IBuilderConfig.invented is not in 8.5.3.1"),
        ("trt.IProgressMonitor()", "IProgressMonitor is not in 8.5.3.1, 8.6.1"),
    ],
)
def test_the_walk_finds_what_is_out_of_range(line: str, said: str) -> None:
    (offence,) = offences(f"def f(trt, config, engine):\n    {line}", RELEASES)
    assert said in offence
    guarded = f'def f(trt, config, engine):\n    if has(trt, "{offence.split()[2]}"):\n        {line}'
    assert offences(guarded, RELEASES) == []


def test_no_other_file_speaks_to_nvidias_modules() -> None:
    """Their names as strings are how they are imported, so import-linter cannot see it."""
    allowed = {"engine/build.py", "engine/order.py", "device/doctor.py", "device/board.py"}
    loaders = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any("tensorrt" in str(name) for name in [getattr(node, "module", ""), *(a.name for a in node.names)])
        and "edgehybrid" not in str(getattr(node, "module", ""))
    }
    assert loaders <= allowed


def test_the_table_is_whole() -> None:
    """Ten releases, and a few facts about them that were read elsewhere as well (NVIDIA's headers and guides)."""
    assert len(RELEASES) == 10
    assert all(len(mask) == 10 for table in NAMES["classes"].values() for mask in table.values())
    flags = {r: names_of(r, "NetworkDefinitionCreationFlag") for r in RELEASES}
    assert (flags["10.3.0"]["STRONGLY_TYPED"], flags["11.4.0.106"]["STRONGLY_TYPED"]) == (1, 0)
    assert "EXPLICIT_BATCH" not in flags["11.0.0.114"]
    assert "INT8" not in names_of("11.0.0.114", "BuilderFlag")
    assert json.dumps(names_of("8.5.3.1", "ICudaEngine")).count("num_io_tensors") == 1
