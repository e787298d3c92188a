"""The shape of the package: what is imported when, and that the command line is the API."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import typer.main

import edgehybrid
from edgehybrid import cli, pipeline, stages
from edgehybrid.findings import commands
from edgehybrid.records import Recipe

ROOT = Path(edgehybrid.__file__).parent
HEAVY = (
    "numpy",
    "torch",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxsim",
    "tensorrt",
    "tensorrt_rtx",
    "pycuda",
    "timm",
    "PIL",
    "av",
    "aiohttp",
)
COMMANDS = {command.__name__: command for command in pipeline.COMMANDS}
PRESENTATION = {"as_json", "quiet", "verbose", "help"}


def test_importing_the_command_line_loads_no_heavy_library() -> None:
    code = f"import sys, edgehybrid.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_listing_models_needs_no_torch() -> None:
    code = "import sys, edgehybrid; edgehybrid.models(); edgehybrid.targets(); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_parameters_and_defaults_of_its_function(name: str) -> None:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    command = group.commands[name]  # type: ignore[union-attr]
    options = {p.name: p for p in command.params if p.name not in PRESENTATION}
    parameters = inspect.signature(COMMANDS[name]).parameters
    assert list(options) == list(parameters)
    for parameter in parameters.values():
        option = options[parameter.name]
        assert option.required == (parameter.default is parameter.empty)
        if not option.required:
            assert option.default == parameter.default
        is_argument = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert option.param_type_name == ("argument" if is_argument else "option")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_is_documented(name: str) -> None:
    assert set(cli.argument_lines(COMMANDS[name])) == set(inspect.signature(COMMANDS[name]).parameters)


@pytest.mark.parametrize("place", [COMMANDS["quantize"], stages.prepare, Recipe], ids=lambda place: place.__name__)
def test_defaults_of_tuning_are_those_of_a_build_wherever_they_stand(place: Callable[..., object]) -> None:
    build, here = inspect.signature(COMMANDS["build"]).parameters, inspect.signature(place).parameters
    for name in ("equalize", "refine", "rounding"):
        assert here[name].default == build[name].default


def test_commands_to_run_next_leave_out_what_is_the_default_of_a_build() -> None:
    parameters = inspect.signature(COMMANDS["build"]).parameters
    assert {name: parameters[name].default for name in commands.DEFAULTS} == commands.DEFAULTS


def test_the_api_is_the_commands_and_two_modules() -> None:
    assert set(edgehybrid.__all__) == {*COMMANDS, "__version__", "errors", "records"}


def test_only_stages_and_pipeline_import_inside_functions() -> None:
    """Laziness is of our own modules and has few homes; elsewhere an import stands at the top."""
    late = []
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] in ("__main__.py", "cli.py", "pipeline", "stages", "delivery"):
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                late += [
                    f"{path.relative_to(ROOT)}:{node.lineno}"
                    for node in ast.walk(function)
                    if isinstance(node, ast.Import | ast.ImportFrom)
                ]
    assert late == []
