"""Which weights an option means, with and without a network."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch

from edgehybrid import resources, zoo
from edgehybrid.errors import NotFoundError, NotReadyError, UsageError, WeightsError
from edgehybrid.records import ModelCard
from edgehybrid.zoo.download import DownloadError
from edgehybrid.zoo.sources import find, needs_torch
from tests.zoo.server import FileServer

CARD = next(card for card in zoo.cards() if card.name == "cmt_ti")


def quiet(message: str) -> None:
    """Where messages go that a test does not look at."""


def checkpoint() -> bytes:
    buffer = BytesIO()
    torch.save({"model": {"head.weight": torch.zeros(1000, 2)}}, buffer)
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.delenv("EDGEHYBRID_OFFLINE")
    with FileServer(checkpoint()).running() as running:
        yield running


@pytest.fixture
def card(server: FileServer) -> ModelCard:
    return replace(CARD, weights_url=server.url)


def test_random_weights_are_named_by_model_and_seed() -> None:
    a, b = (find(CARD, "random", num_classes=None, seed=seed, notify=quiet) for seed in (0, 1))
    assert (a.path, a.origin, b.origin) == (None, "random (seed 0)", "random (seed 1)")
    assert a.sha256 != b.sha256
    assert a.sha256 == zoo.find_weights("cmt_ti", "random").sha256
    assert a.sha256 != zoo.find_weights("cmt_xs", "random").sha256
    assert "accuracy means nothing" in a.note


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_a_usage_error(seed: int) -> None:
    with pytest.raises(UsageError, match="no seed"):
        find(CARD, "random", num_classes=None, seed=seed, notify=quiet)


def test_a_file_is_named_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"anything")
    assert zoo.find_weights("cmt_ti", str(path)).sha256 == hashlib.sha256(b"anything").hexdigest()


def test_a_misspelt_name_is_corrected_and_a_missing_file_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as error:
        zoo.find_weights("cmt_ti", "imagnet")
    assert error.value.why == "did you mean imagenet?"
    for missing in ("net.pth", str(tmp_path / "net")):
        with pytest.raises(NotFoundError, match="no file"):
            zoo.find_weights("cmt_ti", missing)
    with pytest.raises(WeightsError, match="is not a file"):
        zoo.find_weights("cmt_ti", str(tmp_path))


def test_an_unknown_model_is_corrected() -> None:
    with pytest.raises(NotFoundError) as error:
        zoo.find_weights("cmt-ti", "random")
    assert "cmt_ti" in error.value.why


def test_imagenet_weights_are_downloaded_once(server: FileServer, card: ModelCard) -> None:
    first = find(card, "imagenet", num_classes=None, seed=0, notify=quiet)
    second = find(card, "imagenet", num_classes=1000, seed=0, notify=quiet)
    assert first == second
    assert first.origin == server.url
    assert first.path is not None
    assert first.sha256 == hashlib.sha256(server.content).hexdigest()
    assert len(server.asked) == 1


def test_auto_takes_the_download_where_the_network_answers(server: FileServer, card: ModelCard) -> None:
    assert find(card, "auto", num_classes=None, seed=0, notify=quiet).origin == server.url


def test_auto_without_network_is_untrained_and_loud(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHYBRID_OFFLINE", "1")
    heard: list[str] = []
    found = find(card, "auto", num_classes=None, seed=3, notify=heard.append)
    assert (found.path, found.origin) == (None, "random (seed 3)")
    assert heard == [found.note]
    assert found.note.startswith("UNTRAINED weights (seed 3)")
    assert "EDGEHYBRID_OFFLINE is set" in found.note


def test_auto_without_network_takes_the_cache(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    online = find(card, "auto", num_classes=None, seed=0, notify=quiet)
    monkeypatch.setenv("EDGEHYBRID_OFFLINE", "1")
    assert find(card, "auto", num_classes=None, seed=0, notify=quiet) == online


@pytest.mark.parametrize("body", [b"<html>please log in</html>", b"PK\x03\x04 broken"])
def test_a_login_page_is_no_answer(server: FileServer, card: ModelCard, body: bytes) -> None:
    server.content = body
    with pytest.raises(DownloadError, match="not usable") as error:
        find(card, "imagenet", num_classes=None, seed=0, notify=quiet)
    assert error.value.exit_code == 3
    found = find(card, "auto", num_classes=None, seed=0, notify=quiet)
    assert found.path is None
    assert "not usable" in found.note


def test_auto_does_not_paper_over_a_damaged_cache(server: FileServer, card: ModelCard) -> None:
    path = find(card, "auto", num_classes=None, seed=0, notify=quiet).path
    assert path is not None
    path.write_bytes(b"changed")
    with pytest.raises(WeightsError, match="changed since it was downloaded"):
        find(card, "auto", num_classes=None, seed=0, notify=quiet)


def test_another_number_of_classes_needs_no_download(server: FileServer, card: ModelCard) -> None:
    found = find(card, "auto", num_classes=10, seed=0, notify=quiet)
    assert found.path is None
    assert "1000 classes, not 10" in found.note
    with pytest.raises(UsageError, match="1000 classes, not 10"):
        find(card, "imagenet", num_classes=10, seed=0, notify=quiet)
    assert server.asked == []


def test_a_model_without_published_weights_says_so() -> None:
    card = replace(CARD, weights_url=None, weights_note="the authors publish through a browser only")
    with pytest.raises(UsageError) as error:
        find(card, "imagenet", num_classes=None, seed=0, notify=quiet)
    assert error.value.why == card.weights_note
    assert card.weights_note in find(card, "auto", num_classes=None, seed=0, notify=quiet).note


def test_fashion_mnist_weights_exist_for_one_model_only() -> None:
    with pytest.raises(UsageError, match="no bundled Fashion-MNIST weights for cmt_s"):
        zoo.find_weights("cmt_s", "fashion-mnist")


def test_a_missing_bundled_checkpoint_is_a_broken_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "find_image_set", lambda _: tmp_path)
    with pytest.raises(NotReadyError, match="is missing"):
        zoo.find_weights("cmt_ti", "fashion-mnist")


def test_missing_torch_is_told_from_a_bug() -> None:
    assert isinstance(needs_torch(ModuleNotFoundError("x", name="torch")), NotReadyError)
    assert isinstance(needs_torch(ModuleNotFoundError("x", name="safetensors.torch")), NotReadyError)
    with pytest.raises(ModuleNotFoundError):
        needs_torch(ModuleNotFoundError("x", name="edgehybrid.zoo.wieghts"))
