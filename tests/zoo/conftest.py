"""What every test of the zoo gets: its own cache, no network, and one small trained-looking checkpoint."""

from pathlib import Path

import pytest
from torch import Tensor

from edgehybrid.zoo import cmt
from tests.golden import fill


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; the network is off unless a test turns it on."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(folder))
    monkeypatch.setenv("EDGEHYBRID_OFFLINE", "1")
    monkeypatch.setenv("no_proxy", "*")
    return folder


@pytest.fixture(scope="session")
def state() -> dict[str, Tensor]:
    """Weights of CMT-Ti at 64 px with 10 classes, nothing at its initial value; not to be changed."""
    module = cmt.create("cmt_ti", 10, 64)
    fill(module)
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
