"""What a verb writes replaces nothing that it reads, no device, and no part of a bundle."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgehybrid
from edgehybrid import store
from edgehybrid.errors import UsageError
from edgehybrid.pipeline.outputs import check_file
from tests.graph.test_adoption import make


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with all that the verbs below read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    Path("net.onnx").write_bytes(make((1, 3, 16, 16)).SerializeToString())
    Path("link.onnx").symlink_to("net.onnx")
    np.savez("images.npz", x=np.zeros((4, 16, 16, 3), np.uint8))
    Path("flat/deep").mkdir(parents=True)
    picture = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(picture, "PNG")
    Path("flat/0.png").write_bytes(picture.getvalue())
    for name in ("a.json", "b.json", "mine.toml", "names.txt", "clip.mp4"):
        Path(name).write_text("{}")
    store.write_bundle(Path("bundle"), {"report.json": b"{}", "model.onnx": b"x"}, {"recipe": {"model": "net"}})
    os.mkfifo("pipe.json")
    Path("null.json").symlink_to("/dev/null")
    return tmp_path


REFUSED: list[Callable[[], object]] = [
    lambda: edgehybrid.export(model="net.onnx", output=Path("net.onnx")),
    lambda: edgehybrid.export(model="net.onnx", output=Path("flat/../net.onnx")),
    lambda: edgehybrid.export(model="net.onnx", output=Path("link.onnx")),
    lambda: edgehybrid.export(model="link.onnx", output=Path("net.onnx")),
    lambda: edgehybrid.export(model="net.onnx", preprocess=Path("mine.toml"), output=Path("mine.toml")),
    lambda: edgehybrid.export(model="net.onnx", labels=Path("names.txt"), output=Path("names.txt")),
    lambda: edgehybrid.export(weights="a.json", output=Path("a.json")),
    lambda: edgehybrid.export(model="net.onnx", output=Path("/dev/null")),
    lambda: edgehybrid.export(model="net.onnx", output=Path("/dev/stdout")),
    lambda: edgehybrid.export(model="net.onnx", output=Path("null.json")),
    lambda: edgehybrid.export(model="net.onnx", output=Path("pipe.json")),
    lambda: edgehybrid.export(model="net.onnx", output=Path("bundle/new.onnx")),
    lambda: edgehybrid.calibrate(model="net.onnx", calib="images.npz", output=Path("images.npz")),
    lambda: edgehybrid.calibrate(model="net.onnx", calib="flat", output=Path("flat/0.png")),
    lambda: edgehybrid.calibrate(model="net.onnx", calib="flat", output=Path("flat/deep/new.json")),
    lambda: edgehybrid.calibrate(merge=[Path("a.json"), Path("b.json")], output=Path("b.json")),
    lambda: edgehybrid.quantize(model="net.onnx", output=Path("net.onnx")),
    lambda: edgehybrid.quantize(model="net.onnx", ranges=Path("a.json"), output=Path("a.json")),
    lambda: edgehybrid.quantize(model="net.onnx", calib="images.npz", output=Path("images.npz")),
    lambda: edgehybrid.sensitivity(model="net.onnx", calib="images.npz", output=Path("pipe.json")),
    lambda: edgehybrid.sensitivity(model="net.onnx", output=Path("bundle/ranking.csv")),
    lambda: edgehybrid.report([Path("bundle")], output=Path("bundle/report.json")),
    lambda: edgehybrid.report([Path("bundle")], output=Path("null.json")),
    lambda: edgehybrid.compare(Path("a.json"), Path("b.json"), output=Path("a.json")),
    lambda: edgehybrid.bench(Path("net.onnx"), samples=Path("bundle/model.onnx")),
    lambda: edgehybrid.bench(Path("net.onnx"), samples=Path("net.onnx")),
    lambda: edgehybrid.bench(Path("net.onnx"), samples=Path("flat")),
    lambda: edgehybrid.stream("test://", engine=Path("net.onnx"), json_lines=Path("net.onnx")),
    lambda: edgehybrid.stream("test://", engine=Path("net.onnx"), json_lines=Path("bundle/report.json")),
    lambda: edgehybrid.stream("file://clip.mp4", engine=Path("net.onnx"), json_lines=Path("clip.mp4")),
    lambda: edgehybrid.stream("flat", engine=Path("net.onnx"), json_lines=Path("flat/0.png")),
]


@pytest.mark.parametrize("verb", REFUSED)
def test_what_would_be_destroyed_is_refused_before_any_work(home: Path, verb: Callable[[], object]) -> None:
    def content() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in sorted(home.rglob("*"))}

    before = content()
    with pytest.raises(UsageError, match=r"--(output|samples|json-lines) "):
        verb()
    assert content() == before


def test_merging_does_not_replace_one_of_its_parts_by_the_default_name(home: Path) -> None:
    Path("a.json").rename("calibration.json")
    with pytest.raises(UsageError, match=r"calibration\.json would destroy calibration\.json"):
        edgehybrid.calibrate(merge=[Path("calibration.json"), Path("b.json")])


def test_weights_beside_a_model_are_part_of_it(home: Path) -> None:
    import onnx

    onnx.save_model(
        make((1, 3, 16, 16)), "split.onnx", save_as_external_data=True, location="split.data", size_threshold=0
    )
    with pytest.raises(UsageError, match=r"would destroy split\.data"):
        edgehybrid.export(model="split.onnx", output=Path("split.data"))


def test_other_places_are_fine(home: Path) -> None:
    Path("photos").mkdir()
    Path("site").mkdir()
    Path("site/manifest.json").write_text('{"name": "a page of somebody else"}')
    for free in ("new.onnx", "new/deep.onnx", "a.json", "site/page.html", "photos/new.onnx", "flat/../x"):
        check_file(Path(free), ["net.onnx", "cmt_ti", None], ["photos", "flat", "images.npz"])
    for log in (Path("/dev/null"), Path("/dev/stdout"), Path("pipe.json"), Path("a.json")):
        check_file(log, ["net.onnx"], option="json-lines", appends=True)
    check_file(Path("flat/log.jsonl"), [], ["flat"], option="json-lines", appends=True)
    check_file(None)
