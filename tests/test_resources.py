"""Targets and image sets are found wherever the package lies, and a wrong TOML file is named by its key."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgehybrid import resources
from edgehybrid.errors import InputError, NotFoundError
from edgehybrid.records import Target
from edgehybrid.resources import sets

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
EIGHTEEN = (*ORIN, "agx-orin-32gb-super", "agx-thor-t5000", "thor-t4000", "agx-xavier", "xavier-nx", "tx2", "nano-4gb")
JETSONS = tuple(name for name in resources.targets() if name not in ("cpu", "rtx", "cuda"))
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
    assert set(resources.targets()) == {"cpu", "rtx", "cuda", *EIGHTEEN}
    assert len(EIGHTEEN) == len(set(EIGHTEEN)) == 18


@pytest.mark.parametrize("name", resources.targets())
def test_a_bundled_target_is_named_like_its_file_and_every_figure_has_a_source(name: str) -> None:
    target = resources.load_target(name)
    assert target.name == name
    assert target.notes
    assert all(figure.source.strip() for figure in target.figures.values())
    assert "fp32" in target.precisions
    assert ("int8" in target.precisions) == (name not in ("tx2", "nano-4gb"))


@pytest.mark.parametrize("name", JETSONS)
def test_a_jetson_says_what_there_is_to_know_or_that_it_is_unknown(name: str) -> None:
    target = resources.load_target(name)
    known = {"compute_capability", "memory", "memory_bandwidth", "gpu_int8_dense", "gpu_fp16_dense", "dla", "tensorrt"}
    assert known <= set(target.figures)
    assert target.stacks
    assert all(stack.source for stack in target.stacks)
    assert all(mode.source for mode in target.modes)
    assert len({mode.name for mode in target.modes}) == len(target.modes)
    assert sum(mode.default for mode in target.modes) <= 1


@pytest.mark.parametrize("name", JETSONS)
def test_the_default_stack_is_what_the_profile_says_without_a_choice(name: str) -> None:
    target = resources.load_target(name)
    (default,) = [stack for stack in target.stacks if stack.default]
    assert default.dialect == target.dialect
    assert default.tensorrt == target.figures["tensorrt"].value
    version = str(target.figures["jetpack"].value)
    chosen = resources.at_jetpack(target, version)
    assert chosen.jetpack == default.jetpack


@pytest.mark.parametrize("name", JETSONS)
def test_the_dialect_follows_from_tensorrt(name: str) -> None:
    for stack in resources.load_target(name).stacks:
        assert stack.dialect == ("typed" if int(stack.tensorrt.split(".")[0]) >= 10 else "fp32"), stack


@pytest.mark.parametrize(
    ("spec", "dialect", "tensorrt", "jetpack"),
    [
        ("orin-nano-8gb@jp5.1", "fp32", "8.5.2", "5.1.1 to 5.1.6"),
        ("orin-nano-8gb@jp6.0", "fp32", "8.6.2", "6.0"),
        ("orin-nano-8gb@jp6", "typed", "10.3.0", "6.1 to 6.2.3"),
        ("orin-nano-8gb@JP6.2.1", "typed", "10.3.0", "6.1 to 6.2.3"),
        ("orin-nano-8gb@15w@jp7.2", "typed", "10.16.2", "7.2 to 7.2.1"),
        ("xavier-nx@jp5", "fp32", "8.5.2", "5.1 to 5.1.6"),
        ("agx-thor-t5000@jp7.0", "typed", "10.13", "7.0 to 7.1"),
        ("agx-thor-t5000@jp7.2.2", "typed", "11.4.1", "7.2.2"),
    ],
)
def test_a_jetpack_decides_tensorrt_and_dialect(spec: str, dialect: str, tensorrt: str, jetpack: str) -> None:
    target = resources.load_target(spec)
    assert (target.dialect, target.figures["tensorrt"].value, target.jetpack) == (dialect, tensorrt, jetpack)
    assert target.name == spec.replace("JP", "jp")


def test_a_power_mode_has_its_own_clocks_rates_and_bandwidth() -> None:
    full, low = resources.load_target("orin-nano-8gb"), resources.load_target("orin-nano-8gb@7w")
    assert (low.name, low.mode) == ("orin-nano-8gb@7w", "7W")
    assert low.figures["gpu_clock_max"].value == 408
    assert number(low, "gpu_int8_dense") == pytest.approx(8 * 4096 * 408 / 1e6, rel=5e-3)
    assert number(low, "memory_bandwidth") == number(full, "memory_bandwidth")  # 7W keeps the memory clock
    assert not low.figures["gpu_int8_dense"].confirmed  # nobody said whether the mode switches SMs off


def test_the_makers_own_rate_of_a_mode_wins_over_the_clock() -> None:
    low = resources.load_target("agx-orin-64gb@mode_30w")
    assert number(low, "gpu_int8_dense") == 20.5  # 612 MHz alone would give twice that: half of the SMs are off
    assert number(low, "gpu_fp16_dense") == pytest.approx(10.2, abs=0.1)
    assert low == resources.load_target("agx-orin-64gb@30W")


def test_a_mode_that_only_the_super_flash_has_gives_the_super_profile() -> None:
    assert resources.load_target("orin-nano-8gb@25w").name == "orin-nano-8gb-super@25w"
    assert resources.load_target("orin-nano-8gb@15w").name == "orin-nano-8gb@15w"


def test_a_clock_above_the_highest_known_gives_no_rate() -> None:
    """Thor's 70 W mode clocks fewer processors higher: what it computes does not follow from the clock."""
    low = resources.load_target("agx-thor-t5000@70w")
    assert low.figures["gpu_fp16_dense"].value is None
    assert "no clock" in low.figures["gpu_fp16_dense"].source


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("orin-nano-8gb@10w", "15w"),
        ("orin-nano-8gb@maxm", "orin-nano-8gb"),
        ("orin-nano-8gb@jp4.6", "jp"),
        ("orin-nano-8gb@jp", "power modes"),
        ("cpu@15w", "--target cpu"),
        ("orin-nano-8g@15w", "orin-nano-8gb"),
    ],
)
def test_an_unknown_mode_or_jetpack_suggests_what_there_is(spec: str, hint: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        resources.load_target(spec)
    assert hint in caught.value.why + caught.value.fix
    assert caught.value.exit_code == 4


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
        ("value = 8", 'value = 8\nconfirmed = "no"', "'figures.memory.confirmed'", "true or false"),
        ('source = "nobody knows"', 'source = "x"\n[[modes]]\nname = "1W"', "'modes[0].source'", "missing"),
        ('source = "nobody knows"', 'source = "x"\n[[modes]]\nname = "1W"\ngpu_mhz = 0', "'modes[0]", "above 0"),
        ('source = "nobody knows"', 'source = "x"\n[[stacks]]\njetpack = "6.2"', "'stacks[0].tensorrt'", "missing"),
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
    monkeypatch.setattr(sets, "home", lambda kind: tmp_path)
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
    package = Path(resources.__file__).parents[1]
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
        assert done.stdout.split(maxsplit=1) == [
            str(tmp_path / "edgehybrid" / "resources" / "__init__.py"),
            "('cpu',) ()\n",
        ]
