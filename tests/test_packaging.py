"""The wheel holds what the package needs and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edgehybrid

ROOT = Path(edgehybrid.__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_code_profiles_and_image_sets(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "edgehybrid/profiles/cpu.toml" in names
    assert "edgehybrid/calib/photos/manifest.toml" in names
    assert "edgehybrid/calib/fashion-mnist/cmt_ti_64.safetensors" in names
    assert any(name.endswith("page.html.j2") for name in names)
    assert {name.split("/")[0] for name in names} == {"edgehybrid", f"edgehybrid-{edgehybrid.__version__}.dist-info"}
    assert not any(name.endswith("README.md") for name in names)
    assert not [name for name in names if "test" in name.rsplit("/", 1)[-1] and name.endswith(".py")]


def test_the_wheel_finds_its_data_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import edgehybrid; print(edgehybrid.__file__); "
        "print(len(edgehybrid.targets().targets)); from edgehybrid import dataset; "
        "print(len(dataset.load('photos', limit=None, seed=0)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "HOME": str(tmp_path)},
    )
    path, targets, photos = out.stdout.split()
    assert path.startswith(str(tmp_path))
    assert int(targets) >= 3
    assert int(photos) >= 32
