"""A bundle is whole or refused, and writing one harms nothing else."""

import errno
import functools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgehybrid import store
from edgehybrid.errors import ArtifactError, ResourceError, UsageError
from edgehybrid.records import Provenance

FACTS = {"recipe": {"model": "cmt_ti"}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store.write_bundle(tmp_path / "b", {"model.onnx": bytes(range(256)) * 4, "report.json": b"{}"}, FACTS)
    return tmp_path / "b"


def test_a_written_bundle_opens(folder: Path) -> None:
    assert store.open_bundle(folder).file("model.onnx").read_bytes()[:3] == b"\0\1\2"


def test_any_flipped_bit_is_found(folder: Path) -> None:
    rng = random.Random(0)
    good = (folder / "model.onnx").read_bytes()
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        (folder / "model.onnx").write_bytes(bad)
        with pytest.raises(ArtifactError, match="damaged or was changed") as caught:
            store.open_bundle(folder)
        assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schema": "edgehybrid.bundle/2", "files": {}}',
        b'{"schema": "edgehybrid.bundle/1", "files": {"../../etc/passwd": {"sha256": "", "bytes": 0}}}',
        b'{"schema": "edgehybrid.bundle/1", "files": {"model.onnx": null}}',
        b'{"schema": "edgehybrid.bundle/1", "files": {"gone.onnx": {"sha256": "", "bytes": 0}}}',
    ],
)
def test_a_manifest_that_lies_is_refused(folder: Path, manifest: bytes) -> None:
    (folder / "manifest.json").write_bytes(manifest)
    with pytest.raises(ArtifactError):
        store.open_bundle(folder)


def test_a_manifest_that_is_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(ArtifactError, match="cannot be read") as caught:
        store.open_bundle(folder)
    assert caught.value.why == "it is no file"
    with pytest.raises(UsageError, match="not a bundle"):
        store.check_output(folder, "cmt_ti")


def test_a_manifest_of_brackets_is_refused_wherever_it_is_read(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="cannot be read") as caught:
        store.open_bundle(folder)
    assert caught.value.why == "it is nested too deep"
    with pytest.raises(UsageError, match="not a bundle"):
        store.check_output(folder, "cmt_ti")
    store.write_bundle(folder, {"model.onnx": b"new"}, FACTS)
    store.open_bundle(folder)


def test_a_manifest_larger_than_any_is_not_read(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(2**27)
    with pytest.raises(ArtifactError, match="cannot be read") as caught:
        store.open_bundle(folder)
    assert "128 MiB" in caught.value.why


def test_a_link_in_place_of_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.onnx").rename(tmp_path / "elsewhere")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="not trusted"):
        store.open_bundle(folder)


def test_writing_again_replaces_files_drops_stale_ones_and_keeps_the_users(folder: Path) -> None:
    (folder / "my-notes.txt").write_text("mine")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["my-notes.txt"] = manifest["files"]["report.json"]  # by whoever made the bundle
    (folder / "manifest.json").write_text(json.dumps(manifest))
    store.write_bundle(folder, {"model.onnx": b"new"}, FACTS, own={"model.onnx", "report.json"})
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "model.onnx", "my-notes.txt"]
    assert store.open_bundle(folder).file("model.onnx").read_bytes() == b"new"


def test_what_exists_is_protected(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        store.check_output(tmp_path / "file", "cmt_ti")
    with pytest.raises(UsageError, match="not empty and not a bundle"):
        store.check_output(tmp_path / "photos", "cmt_ti")
    with pytest.raises(ArtifactError, match="another model"):
        store.check_output(folder, "cmt_s")
    with pytest.raises(ResourceError, match="cannot write"):
        store.check_output(tmp_path / "file" / "below", "cmt_ti")
    store.check_output(folder, "cmt_ti")
    store.check_output(tmp_path / "new" / "deep", "cmt_ti")


def of(sha256: str, *, trained: bool = True) -> Provenance:
    return Provenance("mine.onnx", sha256, trained)


def test_a_bundle_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    recipe = {"model": "mine", "num_classes": 5, "precision": "int8", "target": "cpu", "calib": "photos"}
    store.write_bundle(tmp_path / "b", {"model.onnx": b"x"}, {"recipe": recipe, "weights": of("a" * 64)})
    check = functools.partial(store.check_output, tmp_path / "b", "mine")
    check()
    check(weights=of("a" * 64), classes=5, precision="int8")
    other: list[tuple[str, dict[str, object]]] = [
        ("of other weights", {"weights": of("b" * 64)}),
        ("of other weights", {"weights": of("b" * 64, trained=False)}),
        ("of another number of classes", {"classes": 7}),
        ("of another precision", {"precision": "fp16"}),
    ]
    for said, told in other:
        with pytest.raises(ArtifactError, match=said) as caught:
            check(**told)  # type: ignore[arg-type]
        assert "--output" in caught.value.fix


def test_untrained_weights_may_be_replaced_as_their_seed_makes_them_again(tmp_path: Path) -> None:
    facts = {"recipe": {"model": "mine"}, "weights": of("a" * 64, trained=False)}
    store.write_bundle(tmp_path / "b", {"model.onnx": b"x"}, facts)
    store.check_output(tmp_path / "b", "mine", weights=of("b" * 64), classes=5, precision="int8")


def test_the_manifest_names_every_file_with_its_hash(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["schema"] == "edgehybrid.bundle/1"
    assert manifest["files"].keys() == {"model.onnx", "report.json"}
    assert manifest["files"]["model.onnx"] == {
        "sha256": store.sha256_of(folder / "model.onnx"),
        "bytes": 1024,
    }


@pytest.mark.parametrize("kept", [False, True])
def test_a_bundle_that_cannot_be_finished_leaves_nothing_but_what_was_there(tmp_path: Path, kept: bool) -> None:
    def cut_off() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "builds" / "one"
    if kept:
        target.mkdir(parents=True)
        (target / "mine.txt").write_text("x")
    with pytest.raises(ResourceError, match="disk"):
        store.write_bundle(target, {"a.bin": b"whole", "model.onnx": cut_off()}, FACTS)
    assert [p.name for p in target.parent.rglob("*")] == (["one", "mine.txt"] if kept else [])
