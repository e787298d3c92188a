"""Checkpoints are data: whatever is in the file, nothing is run, and damage is told from hostility."""

import argparse
import contextlib
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from edgehybrid.errors import WeightsError
from edgehybrid.zoo.checkpoint import read

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, 2.0])}


class Bomb:
    """A pickle of this runs a shell command when it is loaded carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.target}'",)


def saved(path: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def check_same(path: Path, wrapper: str = "") -> None:
    found = read(path)
    assert found.wrapper == wrapper
    assert found.tensors.keys() == WEIGHTS.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in WEIGHTS.items())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.part"])
def test_a_bare_state_dict_is_read_whatever_its_name(tmp_path: Path, name: str, legacy: bool) -> None:
    check_same(saved(tmp_path / name, OrderedDict(WEIGHTS), legacy=legacy))


def test_safetensors_are_read_with_their_metadata(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "x.pth", {"top1": "91.5"})
    check_same(tmp_path / "x.pth")
    assert read(tmp_path / "x.pth").metadata == {"top1": "91.5"}


@pytest.mark.parametrize("key", ["model", "model_ema", "state_dict", "state_dict_ema", "module"])
def test_a_wrapper_is_opened(tmp_path: Path, key: str) -> None:
    check_same(saved(tmp_path / "x.pth", {key: WEIGHTS, "epoch": 3, "optimizer": {"state": {}}}), key)


def test_wrappers_may_be_nested(tmp_path: Path) -> None:
    check_same(saved(tmp_path / "x.pth", {"model": {"state_dict": WEIGHTS}}), "model.state_dict")


def test_the_moving_average_is_preferred_where_there_is_one(tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in WEIGHTS.items()}
    check_same(saved(tmp_path / "x.pth", {"model": other, "model_ema": WEIGHTS}), "model_ema")
    check_same(saved(tmp_path / "y.pth", {"model": WEIGHTS, "model_ema": None}), "model")
    check_same(saved(tmp_path / "z.pth", {"model": WEIGHTS, "model_ema": {}}), "model")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_prefixes_of_training_wrappers_are_removed(tmp_path: Path, prefix: str) -> None:
    check_same(saved(tmp_path / "x.pth", {f"{prefix}{name}": value for name, value in WEIGHTS.items()}))


def test_a_prefix_that_only_some_names_have_belongs_to_the_names(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "x.pth", {"module.a": torch.zeros(1), "b": torch.zeros(1)}))
    assert set(found.tensors) == {"module.a", "b"}


def test_training_options_beside_the_weights_do_not_matter(tmp_path: Path) -> None:
    args = argparse.Namespace(lr=0.1, data_path="/imagenet", device="cuda", betas=(0.9, 0.99), ema=None)
    check_same(saved(tmp_path / "x.pth", {"model": WEIGHTS, "args": args, "epoch": 299}), "model")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["alone", "beside", "in options"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_nothing(tmp_path: Path, place: str, legacy: bool) -> None:
    target = tmp_path / "was_here"
    bomb = Bomb(target)
    content = {
        "alone": bomb,
        "beside": {"model": WEIGHTS, "extra": bomb},
        "in options": {"model": WEIGHTS, "args": argparse.Namespace(hook=bomb)},
    }[place]
    path = saved(tmp_path / "x.pth", content, legacy=legacy)
    with pytest.raises(WeightsError, match="was refused") as error:
        read(path)
    assert "posix.system" in error.value.why
    assert not target.exists()
    torch.load(path, weights_only=False)  # the bomb is live: a careless reader does run it
    assert target.exists()


def test_a_plain_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    target = tmp_path / "was_here"
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(WeightsError, match="not a checkpoint"):
        read(tmp_path / "x.pth")
    assert not target.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="was refused") as error:
        read(saved(tmp_path / "x.pth", torch.nn.Linear(2, 2)))
    assert "state_dict" in error.value.fix


def test_options_cannot_smuggle_attributes_into_the_real_class(tmp_path: Path) -> None:
    read(saved(tmp_path / "x.pth", {"model": WEIGHTS, "args": argparse.Namespace(__contains__=1)}))
    assert callable(argparse.Namespace.__contains__)
    with pytest.raises(pickle.UnpicklingError):  # the allowance ended with the call
        torch.load(saved(tmp_path / "y.pth", argparse.Namespace()), weights_only=True)


@pytest.mark.parametrize("keep", [0, 1, 7, 9, 30, 100, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, form: str, keep: float) -> None:
    path = tmp_path / "x.pth"
    if form == "safetensors":
        save_file(WEIGHTS, path)
    else:
        saved(path, {"model": WEIGHTS}, legacy=form == "legacy")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(WeightsError):
        read(path)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>", b"\x89PNG\r\n", b"{}", b"PK\x03\x04", b"\xff" * 64])
def test_other_files_are_not_checkpoints(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(WeightsError):
        read(tmp_path / "x.pth")


def test_a_zip_that_grows_when_opened_is_refused(tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain.pth", {"model": {"a": torch.zeros(1_000_000)}})
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in source.infolist():
            bomb.writestr(entry.filename, source.read(entry))
    with pytest.raises(WeightsError, match="damaged") as error:
        read(tmp_path / "x.pth")
    assert "compressed" in error.value.why


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"model": {"epoch": 3}}, torch.zeros(3)])
def test_a_file_without_weights_says_what_it_holds(tmp_path: Path, content: object) -> None:
    with pytest.raises(WeightsError, match="holds no weights"):
        read(saved(tmp_path / "x.pth", content))


def test_a_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot read"):
        read(tmp_path)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.pth"
    if data.draw(st.booleans()):
        save_file(WEIGHTS, path)
    else:
        saved(path, {"model": WEIGHTS}, legacy=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(WeightsError):
        read(path)
