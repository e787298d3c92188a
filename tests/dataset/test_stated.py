"""What the user says of input and classes: options win over the file, the file over the model; nonsense is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgehybrid import zoo
from edgehybrid.dataset import apply_stated, read_size, read_stated
from edgehybrid.errors import InputError, NotFoundError, UsageError
from edgehybrid.records import ModelSpec, Preprocess, Provenance, Stated
from edgehybrid.sizes import Size

FILE = ModelSpec("mine", Preprocess(64), 3, Provenance("mine.onnx", "0" * 64, trained=True))
"""A user's ONNX file: no card."""
OURS = replace(FILE, name="cmt_ti", card=zoo.cards()[0])
WHOLE = """
size = 96
crop_pct = 1
mean = [0.5, 0.4, 0.3]
std = [0.25, 0.5, 1]
interpolation = "bilinear"
labels = ["a", "b", "c"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def test_nothing_said_changes_nothing() -> None:
    assert read_stated() == Stated()
    assert apply_stated(OURS, Stated(), assumed=False) == OURS


def test_a_file_says_everything_and_options_win(path: Path) -> None:
    path.write_text(WHOLE)
    found = read_stated(preprocess=path)
    assert found == Stated(
        96, 1.0, (0.5, 0.4, 0.3), (0.25, 0.5, 1.0), "bilinear", labels=("a", "b", "c"), labels_from=str(path)
    )
    names = path.with_name("names.txt")
    names.write_text("x\ny\nz\n")
    changed = read_stated(
        preprocess=path, labels=names, size=64, crop_pct=0.5, mean="0,0,0", std="1 1 1", interpolation="bicubic"
    )
    assert changed == Stated(64, 0.5, (0, 0, 0), (1, 1, 1), "bicubic", labels=("x", "y", "z"), labels_from=str(names))
    assert read_stated(preprocess=path, mean="0,0,0").std == found.std


def test_a_file_may_name_a_file_of_names_beside_it(path: Path) -> None:
    path.write_text('labels = "names.json"')
    path.with_name("names.json").write_text('["a", "b"]')
    assert read_stated(preprocess=path) == Stated(labels=("a", "b"), labels_from=str(path.with_name("names.json")))


def test_what_an_onnx_file_cannot_tell_is_assumed_aloud() -> None:
    spec = apply_stated(FILE, Stated(mean=(0.5, 0.5, 0.5)), assumed=True)
    assert spec.preprocess == Preprocess(64, mean=(0.5, 0.5, 0.5))
    (note,) = spec.notes
    assert "assumed: crop_pct 0.875, std 0.229,0.224,0.225, interpolation bicubic" in note
    assert "mean 0" not in note
    full = Stated(64, 0.875, (0.5, 0.5, 0.5), (1, 1, 1), "bicubic")
    assert apply_stated(FILE, full, assumed=True).notes == ()


def test_what_is_not_the_models_own_is_said() -> None:
    spec = apply_stated(OURS, Stated(crop_pct=1.0, std=OURS.preprocess.std), assumed=False)
    assert spec.preprocess == Preprocess(64, 1.0)
    assert spec.notes == ("preprocessing as asked for, not the model's own: crop_pct 1.0 instead of 0.875",)


def test_names_must_be_as_many_as_classes() -> None:
    three = Stated(labels=("a", "b", "c"), labels_from="n.txt")
    assert apply_stated(FILE, three, assumed=True).labels == ("a", "b", "c")
    assert apply_stated(replace(FILE, labels=("x", "y", "z")), Stated(), assumed=True).labels == ("x", "y", "z")
    with pytest.raises(InputError, match=r"n\.txt does not fit mine") as caught:
        apply_stated(replace(FILE, classes=2), three, assumed=True)
    assert caught.value.why == "it has 3 class names, the model 2 classes"
    assert "background" in caught.value.fix


def test_another_size_than_the_networks_is_refused() -> None:
    assert apply_stated(FILE, Stated(size=64), assumed=False) == FILE
    with pytest.raises(UsageError, match="does not take 96 px"):
        apply_stated(FILE, Stated(size=96), assumed=False)
    with pytest.raises(UsageError, match="does not take 64x96 px"):
        apply_stated(FILE, Stated(size=(64, 96)), assumed=False)


@pytest.mark.parametrize(
    ("value", "size"),
    [(None, None), (64, 64), ("64", 64), ("48x320", (48, 320)), (" 48X320 ", (48, 320)), ("64x64", 64), ("064", 64)],
)
def test_a_size_is_one_side_or_height_and_width(value: int | str | None, size: Size | None) -> None:
    assert read_size(value) == read_stated(size=value).size == size


@pytest.mark.parametrize(
    "value", [0, -64, True, "", "x", "64x", "x64", "64x0", "64x64x3", "64,96", "6.4", "1e2", 10**9]
)
def test_what_is_no_size_is_refused(value: int | str) -> None:
    with pytest.raises(UsageError, match="--input-size cannot be used") as caught:
        read_size(value)
    assert "384x640, height first" in caught.value.fix


def test_a_file_may_say_height_and_width(path: Path) -> None:
    path.write_text("size = [48, 320]")
    assert read_stated(preprocess=path).size == (48, 320)
    assert read_stated(preprocess=path, size=96).size == 96


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("mean", "", "nothing"),
        ("mean", "0.5", "three numbers"),
        ("mean", "0.5,0.5,0.5,0.5", "three numbers"),
        ("mean", "a,b,c", "found a, b, c"),
        ("mean", "nan,0,0", "three numbers"),
        ("mean", "123.675,116.28,103.53", "divide by 255: 0.485,0.456,0.406"),
        ("std", "58.395,57.12,57.375", "divide by 255: 0.229,0.224,0.225"),
        ("std", "0.2,0,0.2", "above 0"),
        ("std", "-1,1,1", "above 0"),
        ("std", "1e999,1,1", "three numbers"),
        ("crop_pct", 0.0, "above 0"),
        ("crop_pct", 1.01, "above 0"),
        ("crop_pct", float("nan"), "above 0"),
    ],
)
def test_an_option_out_of_range_is_refused(option: str, value: str | float, words: str) -> None:
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} cannot be used") as caught:
        read_stated(**{option: value})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("size = 0", "size"),
        ("size = true", "size"),
        ("size = 64.0", "size"),
        ("size = [64, 0]", "size"),
        ("size = [64, 64, 3]", "size"),
        ("size = [64, true]", "size"),
        ("size = '64x96'", "size"),
        ("crop_pct = '1'", "crop_pct"),
        ("crop_pct = true", "crop_pct"),
        ("mean = 0.5", "mean"),
        ("mean = '0.5,0.5,0.5'", "mean"),
        ("mean = [0.5, 0.5, true]", "mean"),
        ("mean = [0.5, 0.5, inf]", "mean"),
        ("std = [0, 1, 1]", "std"),
        ("interpolation = 'nearest'", "interpolation"),
        ("interpolation = ['bicubic']", "interpolation"),
        ("labels = 3", "labels"),
        ("labels = ''", "labels"),
        ("men = [0, 0, 0]", "men"),
        ("[mean]\nr = 0.5", "mean"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(path: Path, text: str, key: str) -> None:
    path.write_text(text)
    with pytest.raises(InputError, match=f"key '{key}'"):
        read_stated(preprocess=path)


@pytest.mark.parametrize(("text", "words"), [("mean = [", "not valid TOML"), ("labels = []", "no name"), (b"\xff", "")])
def test_a_file_that_says_nothing_usable_is_refused(path: Path, text: str | bytes, words: str) -> None:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as caught:
        read_stated(preprocess=path)
    assert words in str(caught.value)


def test_a_missing_file_is_no_silent_default(path: Path) -> None:
    for missing in (path, path.parent):
        with pytest.raises(NotFoundError, match="no file"):
            read_stated(preprocess=missing)
