"""Which files of a folder are images, and which labels its subfolders give."""

import os
from pathlib import Path

import pytest

from edgehybrid.dataset.folder import list_images, shown
from edgehybrid.errors import ImagesError
from tests.dataset.samples import encode, noise, write_folder


def refused(root: Path) -> ImagesError:
    with pytest.raises(ImagesError) as caught:
        list_images(root)
    assert caught.value.exit_code == 4
    assert all("\n" not in line for line in (caught.value.what, caught.value.why, caught.value.fix))
    return caught.value


def test_subfolders_are_classes_in_ascending_order(tmp_path: Path) -> None:
    write_folder(tmp_path, ["dog/b.png", "dog/a.png", "cat/z.png", "Ape/q.png"])
    listing = list_images(tmp_path)
    assert listing.classes == ("Ape", "cat", "dog")
    assert listing.files == ("Ape/q.png", "cat/z.png", "dog/a.png", "dog/b.png")
    assert listing.labels == (0, 1, 2, 2)


def test_classes_txt_gives_the_order_and_may_name_classes_without_images(tmp_path: Path) -> None:
    write_folder(tmp_path, ["dog/a.png", "cat/b.png"])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "classes.txt").write_bytes("\ufeffdog\r\ncow\r\ncat\r\n\r\n".encode())
    listing = list_images(tmp_path)
    assert listing.classes == ("dog", "cow", "cat")
    assert dict(zip(listing.files, listing.labels or (), strict=True)) == {"dog/a.png": 0, "cat/b.png": 2}


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"dog\n", "'cat' is not in it"), (b"dog\ncat\ndog\n", "'dog' is in it twice"), (b"\xff", "codec")],
)
def test_classes_txt_must_fit(tmp_path: Path, content: bytes, words: str) -> None:
    write_folder(tmp_path, ["dog/a.png", "cat/b.png"])
    (tmp_path / "classes.txt").write_bytes(content)
    assert words in refused(tmp_path).why


def test_an_empty_folder_beside_classes_is_asked_about(tmp_path: Path) -> None:
    write_folder(tmp_path, ["cat/a.png", "dog/b.png"])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.csv").write_text("x" * 100)
    assert "annotations" in refused(tmp_path).what


def test_images_alone_have_no_labels(tmp_path: Path) -> None:
    write_folder(tmp_path, ["b.png", "a.png"])
    (tmp_path / "notes").mkdir()
    listing = list_images(tmp_path)
    assert (listing.files, listing.labels, listing.classes) == (("a.png", "b.png"), None, ())


def test_one_folder_is_no_choice_of_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, ["images/a.png", "images/b.png"])
    (tmp_path / "labels").mkdir()
    listing = list_images(tmp_path)
    assert (len(listing.files), listing.labels) == (2, None)
    assert "'images', which gives no class number unless a classes.txt" in listing.note
    (tmp_path / "classes.txt").write_text("images\nothers\n")
    assert list_images(tmp_path).labels == (0, 0)


def test_nested_folders_belong_to_their_class(tmp_path: Path) -> None:
    write_folder(tmp_path, ["cat/2020/may/a.png", "cat/b.png", "dog/c.png"])
    assert list_images(tmp_path).labels == (0, 0, 1)


@pytest.mark.parametrize(
    "names", [["train/cat/a.png", "train/dog/b.png", "val/cat/c.png"], ["test/a.png", "Train/b.png"], ["val/a.png"]]
)
def test_splits_are_not_classes(tmp_path: Path, names: list[str]) -> None:
    write_folder(tmp_path, names)
    error = refused(tmp_path)
    assert "splits" in error.what
    assert str(tmp_path) in error.fix


def test_images_beside_folders_of_images_are_unclear(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a.png", "cat/b.png"])
    assert "both" in refused(tmp_path).what


def test_a_folder_without_images_says_what_was_looked_for(tmp_path: Path) -> None:
    assert "no images" in refused(tmp_path).what
    (tmp_path / "sub" / "deeper").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("nothing to see " * 20)
    assert "no images" in refused(tmp_path).what


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    write_folder(
        tmp_path, ["cat/a.png", "dog/b.png", ".git/c.png", "__MACOSX/d.png", "cat/.hidden.png", "cat/.x/e.png"]
    )
    for name in (".DS_Store", "cat/Thumbs.db", "README.md", "cat/raw.dng"):
        (tmp_path / name).write_bytes(encode(noise(), "TIFF"))
    assert list_images(tmp_path).files == ("cat/a.png", "dog/b.png")


def test_an_image_under_a_foreign_name_is_found_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "photo.dat").write_bytes(encode(noise(), "JPEG"))
    (tmp_path / "photo").write_bytes(encode(noise(), "PNG"))
    (tmp_path / "UPPER.JPEG").write_bytes(encode(noise(), "PNG"))
    assert list_images(tmp_path).files == ("UPPER.JPEG", "photo", "photo.dat")


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    write_folder(tmp_path, ["set/cat/a.png", "set/dog/b.png", "elsewhere/c.png"])
    root = tmp_path / "set"
    (root / "dog" / "up").symlink_to("..")
    (root / "dog" / "self").symlink_to(".")
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "again").symlink_to("more")
    (root / "cat" / "loop.png").symlink_to("loop.png")
    (root / "cat" / "loop").symlink_to("loop")
    listing = list_images(root)
    assert listing.files == ("cat/a.png", "cat/again/c.png", "cat/loop.png", "dog/b.png")
    assert listing.labels == (0, 0, 0, 1)


STRANGE = ["ü.png", "a b.png", "new\nline.png", "-rf.png", ";$(touch x).png", "\x1b[31mred.png", "日本.png", "'\".png"]


def test_strange_names_are_names(tmp_path: Path) -> None:
    write_folder(tmp_path, STRANGE)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png")).write_bytes(encode(noise()))
    assert set(list_images(tmp_path).files) == {*STRANGE, os.fsdecode(b"\xff\xfe.png")}


def test_a_name_is_shown_on_one_line_without_control_characters() -> None:
    assert shown("ü a\n\x1b[31m\udcff日") == "ü a\\n\\x1b[31m\\udcff日"
    shown("\udcff").encode()
