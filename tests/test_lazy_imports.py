"""What other libraries load is loaded when it is used, works then, and only then takes memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgehybrid.graph import Graph

QUANTIZED = """
import sys
from pathlib import Path
from edgehybrid import graph, placement, quantizer, rewrites

model, _ = rewrites.apply(graph.load(Path(sys.argv[1])))
quantizer.to_fp16(model)
placement.plan(model, "typed")
"""
USED = """
import edgehybrid, sys
import onnx_ir

assert "sympy.core" not in sys.modules
dimension = onnx_ir.SymbolicDim("batch") + 1
assert str(dimension) == "batch + 1", dimension
assert "sympy.core" in sys.modules
"""
OWN = """
{first}
{second}
import onnx_ir
assert sympy.Symbol("x") + 1 - 1 == sympy.Symbol("x")
from sympy.core.numbers import Integer
assert isinstance(onnx_ir._core.sympy.Integer(2), Integer)
"""


def run(code: str, *words: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_command_on_graphs_of_fixed_shapes_loads_what_computes_with_symbols(
    cmt_ti_graph: Graph, tmp_path: Path
) -> None:
    (tmp_path / "cmt.onnx").write_bytes(cmt_ti_graph.to_bytes())
    run(QUANTIZED + "assert 'sympy.core' not in sys.modules", str(tmp_path / "cmt.onnx"))


def test_symbols_work_once_someone_uses_them() -> None:
    run(USED)


@pytest.mark.parametrize("order", ["before", "between", "after"])
def test_a_program_that_uses_sympy_itself_gets_it_as_ever(order: str) -> None:
    lines = ["import edgehybrid"]
    lines.insert(0 if order == "before" else 1, "import sympy")
    if order == "after":
        lines.insert(1, "import onnx_ir")
    run(OWN.format(first=lines[0], second="\n".join(lines[1:])))


def test_sympy_is_not_deferred_for_anyone_else() -> None:
    run("import edgehybrid, sys, sympy; assert type(sympy).__name__ == 'module' and 'sympy.core' in sys.modules")
