"""The README's example of a new model works as it stands there: one file, one line, no change elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgehybrid

ROOT = Path(edgehybrid.__file__).parents[1]
TABLE = "CARDS = (\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout with the README's model in it."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("edgehybrid", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("calib", "profiles", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    model, line = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[:2]
    assert len([text for text in model.splitlines() if text]) <= 20
    assert len(line.splitlines()) == 1
    (folder / "edgehybrid/zoo/tinynet.py").write_text(model)
    cards = folder / "edgehybrid/zoo/cards.py"
    before = cards.read_text()
    assert before.count(TABLE) == 1
    cards.write_text(before.replace(TABLE, f"{TABLE}    {line.strip()},\n"))
    return folder


def run(checkout: Path, *words: str) -> str:
    """What a command prints in the copy."""
    cache = str(checkout / "cache")
    environment = os.environ | {"PYTHONPATH": str(checkout), "EDGEHYBRID_CACHE_DIR": cache, "EDGEHYBRID_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_model_is_listed_exported_and_quantized(checkout: Path) -> None:
    listed = json.loads(run(checkout, "edgehybrid", "models", "--json"))["models"]
    assert listed[0]["name"] == "tinynet"
    options = ["--model", "tinynet", "--weights", "random", "--num-classes", "3", "--input-size", "32", "--json"]
    exported = json.loads(run(checkout, "edgehybrid", "export", *options))
    assert Path(checkout, exported["path"]).name == "tinynet-32-b1-fp32.onnx"
    quantized = json.loads(run(checkout, "edgehybrid", "quantize", *options, "--target", "cpu", "--num-calib", "2"))
    found = json.loads(run(checkout, "edgehybrid", "lint", quantized["path"], "--strict", "--json"))
    assert found["int8"] >= 1


def test_the_tests_take_it_up_by_its_line(checkout: Path) -> None:
    words = ["pytest", "-p", "no:cacheprovider", "tests/zoo/test_cards.py", "tests/test_families.py", "-k", "tinynet"]
    said = run(checkout, *words, "-rA")
    for test in ("test_params_and_macs_are_counted[tinynet]", "test_int8_stays_near_float32[tinynet]"):
        assert re.search(rf"^PASSED .*{re.escape(test)}", said, re.MULTILINE), said
