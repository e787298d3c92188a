"""Names of classes from every form in which people keep them, and what is wrong with a file that has none."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.dataset.class_names import read_class_names
from edgehybrid.errors import InputError, NotFoundError

THREE = ("cat", "big dog", "eel")


def write(folder: Path, text: str | bytes, name: str = "names") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "cat\nbig dog\neel\n",
        "cat\r\nbig dog\r\neel\r\n\r\n",
        "\ufeffcat\n  big dog \neel",
        json.dumps(THREE),
        json.dumps({"2": "eel", "0": "cat", "1": "big dog"}),
        json.dumps({"0": ["n02", "cat"], "1": ["n03", "big dog"], "2": ["n04", "eel"]}),
        json.dumps({"cat": 0, "eel": 2, "big dog": 1}),
        json.dumps({"id2label": {"0": "cat", "1": "big dog", "2": "eel"}, "label2id": {"cat": 0}, "hidden": 7}),
        json.dumps({"architecture": "resnet18", "label_names": THREE, "num_classes": 3}),
        json.dumps({"class_to_idx": {"cat": 0, "big dog": 1, "eel": 2}}),
    ],
)
def test_every_usual_form_gives_the_same_names(tmp_path: Path, text: str) -> None:
    assert read_class_names(write(tmp_path, text)) == THREE
    if text.startswith(("{", "[")):
        assert read_class_names(write(tmp_path, text, "config.json")) == THREE


def test_two_classes_may_share_a_name(tmp_path: Path) -> None:
    assert read_class_names(write(tmp_path, "crane\ncrane\n")) == ("crane", "crane")  # ImageNet's bird and machine


@given(names=st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1), min_size=1))
def test_a_list_and_its_numbering_say_the_same(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("names")
    by_index = dict(reversed(list(enumerate(names))))
    listed, numbered = write(folder, json.dumps(names), "a.json"), write(folder, json.dumps(by_index), "b.json")
    assert read_class_names(listed) == read_class_names(numbered) == tuple(names)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no name"),
        ("\n\n", "no name"),
        ("cat\n\neel\n", "line 2 is empty"),
        ("[]", "no name"),
        ('["cat", 3]', "class 1 is '3'"),
        ('["cat", "  "]', "class 1"),
        ('["cat", "a\\u0007b"]', "class 1"),
        ('{"0": "cat", "2": "eel"}', "none has the index 1"),
        ('{"0": "cat", "00": "eel"}', "none has the index 1"),
        ('{"cat": 0, "eel": 0}', "none has the index 1"),
        ('{"cat": "eel"}', "'cat': 'eel'"),
        ('{"cat": true}', "'cat': 'True'"),
        ('{"0": "cat"', "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        (b"\xff\xfe\x00", "byte 0 is no UTF-8"),
    ],
)
def test_what_names_no_classes_is_refused_with_the_place(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(InputError, match="as class names") as caught:
        read_class_names(write(tmp_path, text))
    assert words in caught.value.why


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_class_names(tmp_path / "names")
    with (tmp_path / "names").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(InputError, match="as class names") as caught:
        read_class_names(tmp_path / "names")
    assert "1,000,000,000 bytes" in caught.value.why
