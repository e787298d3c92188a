"""Targets and image sets are found wherever the package lies, and a wrong TOML file is named by its key."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgehybrid import resources
from edgehybrid.errors import InputError, NotFoundError
from edgehybrid.records import Target

ORIN = (
    "orin-nano-4gb",
    "orin-nano-4gb-super",
    "orin-nano-8gb",
    "orin-nano-8gb-super",
    "orin-nx-8gb",
    "orin-nx-8gb-super",
    "orin-nx-16gb",
    "orin-nx-16gb-super",
    "agx-orin-32gb",
    "agx-orin-64gb",
    "agx-orin-industrial",
)
GOOD = """
name = "board"
title = "My board"
backend = "tensorrt"
dialect = "typed"
precisions = ["fp16", "int8"]
notes = ["one"]
[figures.memory]
value = 8
unit = "GB"
source = "its box"
[figures.clock]
source = "nobody knows"
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "board.toml"
    path.write_text(GOOD)
    return path


def number(target: Target, figure: str) -> float:
    value = target.figures[figure].value
    assert isinstance(value, int | float), figure
    return float(value)


def test_every_promised_target_is_there() -> None:
    assert set(resources.targets()) >= {"cpu", "rtx", *ORIN}


@pytest.mark.parametrize("name", resources.targets())
def test_a_bundled_target_is_named_like_its_file_and_every_figure_has_a_source(name: str) -> None:
    target = resources.load_target(name)
    assert target.name == name
    assert target.notes
    assert all(figure.source.strip() for figure in target.figures.values())
    assert "fp32" in target.precisions
    assert "int8" in target.precisions


@pytest.mark.parametrize("name", ORIN)
def test_an_orin_takes_the_typed_dialect_of_tensorrt_10(name: str) -> None:
    target = resources.load_target(name)
    assert (target.backend, target.dialect) == ("tensorrt", "typed")
    assert target.figures["compute_capability"].value == "8.7"
    assert str(target.figures["tensorrt"].value).startswith("10.3")


@pytest.mark.parametrize("name", [name for name in ORIN if "industrial" not in name])
def test_derived_figures_follow_from_the_figures_they_are_derived_from(name: str) -> None:
    target = resources.load_target(name)
    assert number(target, "sm_count") * 128 == number(target, "cuda_cores")
    assert number(target, "sm_count") * 4 == number(target, "tensor_cores")
    int8 = number(target, "sm_count") * 4096 * number(target, "gpu_clock_max") / 1e6
    assert number(target, "gpu_int8_dense") == pytest.approx(int8, abs=0.06)
    assert number(target, "gpu_fp16_dense") == pytest.approx(int8 / 2, abs=0.06)
    if target.figures["ai_performance"].value is not None:
        dla = number(target, "dla") and number(target, "dla") * 16384 * number(target, "dla_clock_max") / 1e6
        assert number(target, "ai_performance") == pytest.approx(2 * (int8 + dla), rel=0.03)


def test_an_unknown_figure_has_no_value() -> None:
    industrial = resources.load_target("agx-orin-industrial")
    assert industrial.figures["gpu_clock_max"].value is None


def test_the_cpu_target_says_that_its_fp16_is_computed_in_fp32() -> None:
    cpu = resources.load_target("cpu")
    assert (cpu.backend, cpu.dialect) == ("onnxruntime", "fp32")
    assert any("fp16" in note and "fp32" in note for note in cpu.notes)


def test_a_target_of_ones_own_is_given_by_its_path(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = resources.load_target(profile)
    assert target == resources.load_target(str(profile))
    monkeypatch.chdir(profile.parent)
    assert target == resources.load_target("board.toml")
    assert (target.name, target.precisions, target.notes) == ("board", ("fp16", "int8"), ("one",))
    assert (target.figures["memory"].value, target.figures["memory"].unit) == (8, "GB")
    assert target.figures["clock"].value is None


def test_an_unknown_target_suggests_near_misses() -> None:
    with pytest.raises(NotFoundError) as caught:
        resources.load_target("orin-nano-8g")
    assert "orin-nano-8gb" in caught.value.why
    assert caught.value.exit_code == 4


def test_a_missing_file_and_a_folder_are_no_targets(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        resources.load_target(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot read"):
        resources.load_target(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "key", "hint"),
    [
        ('title = "My board"', 'titel = "My board"', "'titel'", "title"),
        ('unit = "GB"', 'units = "GB"', "'figures.memory.units'", "unit"),
        ('title = "My board"', "", "'title'", "missing"),
        ('source = "its box"', "", "'figures.memory.source'", "missing"),
        ('source = "its box"', 'source = " "', "'figures.memory.source'", "text"),
        ('backend = "tensorrt"', 'backend = "openvino"', "'backend'", "onnxruntime"),
        ('dialect = "typed"', "dialect = 3", "'dialect'", "text"),
        ('["fp16", "int8"]', '["fp8"]', "'precisions'", "int8"),
        ('["fp16", "int8"]', "[]", "'precisions'", "int8"),
        ('["fp16", "int8"]', '"int8"', "'precisions'", "list"),
        ('["one"]', "[1]", "'notes'", "list"),
        ("value = 8", "value = nan", "'figures.memory.value'", "leave it out"),
        ("value = 8", "value = true", "'figures.memory.value'", "leave it out"),
        ("value = 8", "value = [8]", "'figures.memory.value'", "leave it out"),
        ("value = 8", "value = 2026-11-21", "'figures.memory.value'", "leave it out"),
    ],
)
def test_a_wrong_key_is_named(profile: Path, old: str, new: str, key: str, hint: str) -> None:
    assert GOOD.count(old) == 1
    profile.write_text(GOOD.replace(old, new))
    with pytest.raises(InputError) as caught:
        resources.load_target(profile)
    assert key in caught.value.what
    assert hint in caught.value.why + caught.value.fix
    assert caught.value.exit_code == 4


def test_figures_must_be_tables(profile: Path) -> None:
    profile.write_text(GOOD.split("[figures", maxsplit=1)[0] + "figures = 3\n")
    with pytest.raises(InputError, match="'figures'"):
        resources.load_target(profile)
    profile.write_text(GOOD.split("[figures", maxsplit=1)[0] + "[figures]\nmemory = 3\n")
    with pytest.raises(InputError, match=r"'figures\.memory'"):
        resources.load_target(profile)


@pytest.mark.parametrize(
    "content", [b"name = ", b"\xff\xfe", b"name = 1\nname = 2", b"a = " + b"[" * 5000 + b"]" * 5000]
)
def test_what_is_not_toml_is_refused(profile: Path, content: bytes) -> None:
    profile.write_bytes(content)
    with pytest.raises(InputError, match="not valid TOML"):
        resources.load_target(profile)


def test_the_bundled_sets_say_where_each_file_comes_from() -> None:
    assert resources.image_sets() == ("fashion-mnist", "photos")
    photos, fashion = (resources.load_image_set(name) for name in ("photos", "fashion-mnist"))
    assert set(photos.parts) == {"calib"}
    assert photos.parts["calib"].images == len(photos.parts["calib"].files) == 64
    assert not photos.classes
    for file in photos.parts["calib"].files:
        assert file.licence.startswith(("CC0", "public domain")), file.path
        assert len(file.source) > 10, file.path
        assert len(file.sha256) == 64, file.path
    assert (fashion.parts["calib"].images, fashion.parts["eval"].images) == (256, 1000)
    assert len(fashion.classes) == 10
    assert "small" in fashion.note
    assert "MIT" in fashion.licence


def test_the_bundled_photos_are_small_and_all_listed() -> None:
    home = resources.find_image_set("photos")
    listed = {file.path for file in resources.load_image_set("photos").parts["calib"].files}
    assert {path.name for path in home.glob("*.jpg")} == listed
    assert sum(path.stat().st_size for path in home.glob("*.jpg")) < 2_000_000


def test_an_unknown_set_suggests_near_misses() -> None:
    with pytest.raises(NotFoundError) as caught:
        resources.find_image_set("fashion_mnist")
    assert "fashion-mnist" in caught.value.why


def test_a_manifest_cannot_reach_out_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil").mkdir()
    manifest = 'name = "evil"\ntitle = "t"\nlicence = "l"\n[parts.calib]\nkind = "images"\nimages = 1\n'
    monkeypatch.setattr(resources, "_home", lambda kind: tmp_path)
    for path in ("/etc/passwd", "../secret.jpg"):
        row = f'[[parts.calib.files]]\npath = "{path}"\nsha256 = "0"\nsource = "s"\n'
        (tmp_path / "evil" / "manifest.toml").write_text(manifest + row)
        with pytest.raises(InputError, match="path"):
            resources.load_image_set("evil")
    (tmp_path / "evil" / "manifest.toml").write_text(manifest)
    with pytest.raises(InputError, match="files"):
        resources.load_image_set("evil")
    (tmp_path / "evil" / "manifest.toml").write_text(manifest.replace("parts.calib", "parts.train"))
    with pytest.raises(InputError, match=r"parts\.train"):
        resources.load_image_set("evil")


@pytest.mark.parametrize("layout", ["wheel", "checkout", "broken"])
def test_they_are_found_beside_the_modules_and_beside_the_package(tmp_path: Path, layout: str) -> None:
    package = Path(resources.__file__).parent
    shutil.copytree(package, tmp_path / "edgehybrid", ignore=shutil.ignore_patterns("__pycache__"))
    if layout != "broken":
        home = tmp_path / "edgehybrid" if layout == "wheel" else tmp_path
        for kind in ("profiles", "calib"):
            (home / kind).mkdir()
        shutil.copy(package.parent / "profiles" / "cpu.toml", home / "profiles")
    code = "from edgehybrid import resources; print(resources.__file__, resources.targets(), resources.image_sets())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    if layout == "broken":
        assert "NotReadyError: this installation has no profiles folder" in done.stderr
    else:
        assert done.stdout.split(maxsplit=1) == [str(tmp_path / "edgehybrid" / "resources.py"), "('cpu',) ()\n"]
