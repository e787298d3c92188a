"""Sets of images: what is chosen, what is skipped, what is refused, and that batches are the images."""

import hashlib
import os
import shutil
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgehybrid import resources
from edgehybrid.dataset import Images, load, overlap, preprocess_image, sources
from edgehybrid.errors import ArtifactError, EdgeHybridError, ImagesError, NotFoundError, UsageError
from edgehybrid.records import Preprocess
from edgehybrid.resources import sets
from tests.dataset.samples import encode, noise, png_claiming, write_folder
from tests.dataset.test_folder import STRANGE

SMALL = Preprocess(16, 1.0)


def names(count: int, folder: str = "") -> list[str]:
    return [f"{folder}{index:03}.png" for index in range(count)]


def inputs(images: Images, batch_size: int = 4) -> np.ndarray:
    return np.concatenate(list(images.batches(SMALL, batch_size)))


def refusal(kind: type[EdgeHybridError], *args: object, **options: object) -> EdgeHybridError:
    with pytest.raises(kind) as caught:
        load(*args, **options)  # type: ignore[arg-type]
    error = caught.value
    assert all("\n" not in line for line in (error.what, error.why, error.fix))
    return error


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images in 3 classes."""
    root = tmp_path_factory.mktemp("labelled")
    write_folder(root, [name for kind in ("ant", "bee", "cow") for name in names(10, f"{kind}/")])
    return root


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images with labels."""
    path = tmp_path_factory.mktemp("npz") / "set.npz"
    x = np.stack([noise(12, 12, seed) for seed in range(30)])
    np.savez_compressed(path, x=x, y=np.arange(30) % 7)
    return path


# --- what is chosen -------------------------------------------------------------------------------


def test_a_folder_of_classes(labelled: Path) -> None:
    images = load(labelled)
    assert len(images) == images.spec.images == 30
    assert images.spec.name == labelled.name
    assert images.spec.source == str(labelled)
    assert images.spec.classes == ("ant", "bee", "cow")
    assert images.spec.labelled
    assert images.labels is not None
    assert (images.labels.dtype, images.labels.tolist()) == (np.int64, [0] * 10 + [1] * 10 + [2] * 10)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    write_folder(tmp_path, names(3))
    images = load(str(tmp_path))
    assert (images.labels, images.spec.labelled, images.spec.classes) == (None, False, ())


def test_an_npz(npz: Path) -> None:
    images = load(npz, limit=5)
    assert (len(images), images.spec.name) == (5, "set.npz")
    with np.load(npz) as file:
        everything = list(map(bytes, file["x"]))
        for index in range(5):
            place = everything.index(images.image(index).tobytes())
            assert images.labels is not None
            assert images.labels[index] == file["y"][place]


@settings(max_examples=30, deadline=None)
@given(limit=st.integers(1, 30), seed=st.integers(0, 2**40), more=st.integers(0, 30))
@pytest.mark.parametrize("kind", ["labelled", "npz"])
def test_a_sample_is_the_same_each_time_in_order_and_part_of_a_larger_one(
    request: pytest.FixtureRequest, kind: str, limit: int, seed: int, more: int
) -> None:
    source: Path = request.getfixturevalue(kind)
    everything, sample = load(source), load(source, limit=limit, seed=seed)
    assert sample.digests == load(source, limit=limit, seed=seed).digests
    assert len(set(sample.digests)) == len(sample) == limit
    places = [everything.digests.index(digest) for digest in sample.digests]
    assert places == sorted(places)
    assert everything.labels is not None
    assert sample.labels is not None
    assert sample.labels.tolist() == everything.labels[places].tolist()
    assert set(sample.digests) <= set(load(source, limit=min(limit + more, 30), seed=seed).digests)


def test_the_sample_is_pinned_whatever_the_machine(npz: Path) -> None:
    assert load(npz, limit=4, seed=0).labels is not None
    chosen = [load(npz).digests.index(digest) for digest in load(npz, limit=4, seed=0).digests]
    ranked = sorted(range(30), key=lambda index: hashlib.sha256(f"0:{index}".encode()).digest())
    assert chosen == sorted(ranked[:4])


def test_another_seed_is_another_sample(labelled: Path) -> None:
    assert len({load(labelled, limit=10, seed=seed).spec.sha256 for seed in range(8)}) == 8


def test_more_than_there_are_is_refused_with_the_number_there_is(labelled: Path) -> None:
    error = refusal(ImagesError, labelled, limit=31)
    assert "found 30, needed 31" in error.why
    assert "at most 30" in error.fix
    assert len(load(labelled, at_most=31)) == 30
    assert load(labelled, at_most=7, seed=3).digests == load(labelled, limit=7, seed=3).digests


@pytest.mark.parametrize("option", ["limit", "at_most"])
@pytest.mark.parametrize("count", [0, -1])
def test_less_than_one_image_is_refused(labelled: Path, option: str, count: int) -> None:
    assert refusal(UsageError, labelled, **{option: count}).exit_code == 2


def test_the_digest_is_of_the_content_in_any_order(labelled: Path, tmp_path: Path) -> None:
    files = sorted(labelled.rglob("*.png"))
    for index, file in enumerate(reversed(files)):
        shutil.copy(file, tmp_path / f"{index:03}.jpg")
    mixed, straight = load(tmp_path), load(labelled)
    assert mixed.spec.sha256 == straight.spec.sha256
    assert mixed.order != straight.order
    assert mixed.digests == straight.digests[::-1]
    (tmp_path / "000.jpg").write_bytes(encode(noise(seed=99)))
    assert load(tmp_path).spec.sha256 != straight.spec.sha256
    assert overlap(load(tmp_path), straight) == 29


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labelled", "npz"])
@pytest.mark.parametrize("batch_size", [1, 7, 30, 64])
def test_batches_are_the_single_images_in_order(request: pytest.FixtureRequest, kind: str, batch_size: int) -> None:
    images = load(request.getfixturevalue(kind))
    batches = list(images.batches(SMALL, batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert all(batch.flags.c_contiguous and batch.dtype == np.float32 for batch in batches)
    together = np.concatenate(batches)
    assert together.shape == (30, 3, 16, 16)
    for index in range(30):
        single = preprocess_image(Image.fromarray(images.image(index)), SMALL)
        assert np.array_equal(together[index], single)


def test_batches_can_be_taken_again(npz: Path) -> None:
    images = load(npz)
    next(images.batches(SMALL, 8))
    assert np.array_equal(inputs(images), inputs(images))


def test_wrong_arguments_are_refused_before_the_first_image(labelled: Path) -> None:
    with pytest.raises(UsageError):
        load(labelled).batches(Preprocess(16, 2.0), 4)
    with pytest.raises(ValueError, match="batch_size"):
        load(labelled).batches(SMALL, 0)


def test_memory_is_flat_in_the_number_of_images(tmp_path: Path) -> None:
    write_folder(tmp_path, names(120), side=64)
    peaks = []
    for count in (12, 120):
        images = load(tmp_path, limit=count)
        tracemalloc.start()
        assert sum(len(batch) for batch in images.batches(Preprocess(64, 1.0), 4)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


# --- unreadable images ----------------------------------------------------------------------------


def damage(root: Path, name: str) -> None:
    data = (root / name).read_bytes()
    (root / name).write_bytes(data[: len(data) // 2])


def test_up_to_one_percent_is_skipped_and_named_and_labels_stay_aligned(tmp_path: Path) -> None:
    write_folder(tmp_path, names(50, "a/") + names(50, "b/"))
    before = load(tmp_path)
    sound = inputs(before)
    damage(tmp_path, "a/017.png")
    images = load(tmp_path)
    assert len(images) == images.spec.images == 99
    assert images.spec.skipped == ("a/017.png: truncated",)
    assert images.digests == before.digests[:17] + before.digests[18:]
    assert images.labels is not None
    assert images.labels.tolist() == [0] * 49 + [1] * 50
    assert np.array_equal(inputs(images), np.delete(sound, 17, axis=0))
    damage(tmp_path, "b/003.png")
    error = refusal(ImagesError, tmp_path)
    assert "2 of 100" in error.what
    assert "a/017.png: truncated" in error.why
    assert "b/003.png: truncated" in error.why


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    write_folder(tmp_path, names(30))
    for index in range(12):
        damage(tmp_path, f"{index:03}.png")
    error = refusal(ImagesError, tmp_path)
    assert error.what.startswith("12 of 30")
    assert error.why.endswith("and 7 more")


def test_every_kind_of_bad_image_is_named_with_its_reason(tmp_path: Path) -> None:
    write_folder(tmp_path, ["good.png"])
    bad = {
        "truncated.jpg": encode(noise(64, 64), "JPEG")[:900],
        "empty.jpg": b"",
        "text.jpg": b"this is no image, whatever it is called",
        "tiny.png": encode(noise(1, 1)),
        "bomb.png": png_claiming(30_000, 30_000),
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    error = refusal(ImagesError, tmp_path)
    assert "5 of 6" in error.what
    assert all(f"{name}: " in error.why for name in bad)


def test_odd_but_sound_images_are_all_used(tmp_path: Path) -> None:
    grey = Image.fromarray(noise()[..., 0])
    deep = Image.fromarray(noise()[..., 0].astype(np.uint16) * 257)
    for name, data in {
        "cmyk.jpg": encode(Image.fromarray(noise()).convert("CMYK"), "JPEG"),
        "grey.png": encode(grey),
        "deep.png": encode(deep),
        "turned.jpg": encode(noise(), "JPEG", 6),
        "palette.gif": encode(noise(), "GIF"),
        "alpha.webp": encode(Image.fromarray(noise()).convert("RGBA"), "WEBP"),
        "lying.jpg": encode(noise(), "PNG"),
    }.items():
        (tmp_path / name).write_bytes(data)
    images = load(tmp_path)
    assert (len(images), images.spec.skipped) == (7, ())
    shapes = dict(zip(sorted(path.name for path in tmp_path.iterdir()), map(images.image, range(7)), strict=True))
    assert shapes["turned.jpg"].shape == (32, 24, 3)
    assert np.array_equal(shapes["deep.png"], shapes["grey.png"])


def test_strange_names_are_read_and_reported_on_one_line(tmp_path: Path) -> None:
    write_folder(tmp_path, STRANGE)
    assert len(load(tmp_path)) == len(STRANGE)
    for name in ("new\nline.png", "\x1b[31mred.png"):
        damage(tmp_path, name)
    error = refusal(ImagesError, tmp_path)
    assert error.why == "\\x1b[31mred.png: truncated; new\\nline.png: truncated"


def test_damage_that_comes_later_names_the_file(tmp_path: Path) -> None:
    write_folder(tmp_path, names(6))
    images = load(tmp_path)
    damage(tmp_path, "004.png")
    batches = images.batches(SMALL, 2)
    assert len(next(batches)) == len(next(batches)) == 2
    with pytest.raises(ImagesError) as caught:
        next(batches)
    assert caught.value.what.endswith("004.png")
    assert caught.value.why == "truncated"
    (tmp_path / "004.png").unlink()
    with pytest.raises(ImagesError, match=r"004\.png"):
        images.image(4)


def test_images_that_tell_nothing_apart_are_told_of(tmp_path: Path) -> None:
    one = np.random.default_rng(0).integers(0, 255, (1, 8, 8, 3), np.uint8)
    black, grey, same, other = np.zeros_like(one), np.full_like(one, 127), one, one[:, ::-1]
    for name, rows, said in (
        ("same", [same, same], "all 2 images are the same, so ranges fit no others"),
        ("blank", [black, grey], "every image is of one colour, so ranges fit no others"),
        ("one", [grey], "every image is of one colour, so ranges fit no others"),
        ("sound", [black, same], ""),
        ("turned", [same, other], ""),
    ):
        np.savez(tmp_path / f"{name}.npz", x=np.concatenate(rows))
        assert load(tmp_path / f"{name}.npz").spec.note == said
        assert load(tmp_path / f"{name}.npz", split="eval").spec.note == ""


def test_of_a_large_set_only_headers_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FULL_CHECK", 100)
    write_folder(tmp_path, names(100), "JPEG", side=32)
    damage(tmp_path, "005.png")
    (tmp_path / "100.png").write_bytes(png_claiming(16, 16))  # its header is sound, its pixels are missing
    images = load(tmp_path)
    assert images.spec.skipped == ("005.png: truncated",)
    with pytest.raises(ImagesError, match=r"100\.png"):
        inputs(images)
    monkeypatch.setattr(sources, "FULL_CHECK", 101)
    assert "100.png" in refusal(ImagesError, tmp_path).why


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that any user may enter."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    path.chmod(0o755)
    shutil.rmtree(path)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may read everything, so root becomes nobody for the length of a test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_what_may_not_be_read_is_said(public_folder: Path, request: pytest.FixtureRequest) -> None:
    write_folder(public_folder, ["set/open.png", "set/closed.png", "sealed/a.png"])
    (public_folder / "set" / "closed.png").chmod(0)
    (public_folder / "sealed").chmod(0)
    request.getfixturevalue("unprivileged")
    assert refusal(ImagesError, public_folder / "set").why == "closed.png: permission denied"
    for folder in (public_folder / "sealed", public_folder):
        error = refusal(ImagesError, folder)
        assert error.what.endswith("/sealed")
        assert error.why == "Permission denied"


# --- where images come from -----------------------------------------------------------------------


@pytest.mark.parametrize("source", ["nowhere/at/all", "./nowhere", "nowhere.npz", Path("nowhere"), "", "a\0/b"])
def test_a_missing_source_is_not_found(source: str | Path) -> None:
    assert refusal(NotFoundError, source).exit_code == 4


def test_an_impossible_path_is_an_error_for_the_user() -> None:
    assert "too long" in refusal(ImagesError, "x/" + "y" * 5000).why


def test_a_misspelt_name_is_corrected() -> None:
    assert "photos" in refusal(NotFoundError, "fotos").why


def test_other_files_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(noise()))
    (tmp_path / "a.csv").write_text("x,y")
    assert "folder that it lies in" in refusal(ImagesError, tmp_path / "a.png").fix
    assert "npz" in refusal(ImagesError, tmp_path / "a.csv").why


def test_the_photos_calibrate_and_do_not_evaluate() -> None:
    images = load("photos")
    assert len(images) == 64
    assert images.labels is None
    assert images.spec.licence.startswith("CC0")
    assert images.spec.skipped == ()
    assert "your own images" in images.spec.note
    error = refusal(ImagesError, "photos", split="eval")
    assert "evaluation" in error.what
    assert "fashion-mnist" in error.fix


def test_fashion_mnist_calibrates_on_training_images_and_evaluates_on_others() -> None:
    calib, evaluation = load("fashion-mnist"), load("fashion-mnist", split="eval")
    assert (len(calib), len(evaluation)) == (256, 1000)
    assert overlap(calib, evaluation) == 0
    assert evaluation.labels is not None
    assert np.bincount(evaluation.labels).tolist() == [100] * 10
    assert evaluation.spec.classes[9] == "Ankle boot"
    assert "small" in evaluation.spec.note
    grey = evaluation.image(0)
    assert grey.shape == (28, 28, 3)
    assert (grey == grey[..., :1]).all()


def test_the_bundled_photos_are_64_different_photographs() -> None:
    assert len(set(load("photos").digests)) == 64
    assert len({file.source for file in resources.load_image_set("photos").parts["calib"].files}) == 64


@pytest.mark.parametrize("harm", ["flip", "remove"])
@pytest.mark.parametrize("name", ["photos", "fashion-mnist"])
def test_a_damaged_bundled_set_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, harm: str
) -> None:
    shutil.copytree(resources.find_image_set(name), tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(sets, "home", lambda kind: tmp_path)
    file = tmp_path / name / ("water0.jpg" if name == "photos" else "train.npz")
    assert load(name, limit=1).spec.images == 1
    if harm == "flip":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    error = refusal(ArtifactError, name, limit=1)
    assert error.exit_code == 7
    assert file.name in error.why


def test_a_bundled_name_wins_over_a_folder_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path, ["photos/a.png", "mine/a.png"])
    assert len(load("photos")) == 64
    assert "./photos" in load("photos").spec.note
    assert len(load("./photos")) == len(load(Path("photos"))) == len(load("mine")) == 1
