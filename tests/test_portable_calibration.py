"""Ranges as a file: made in parts, merged, used for every dialect; and what does not fit is refused."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgehybrid
from edgehybrid import dataset, graph, stages
from edgehybrid.engine import calibration_cache
from edgehybrid.errors import ArtifactError, ImagesError, UsageError
from edgehybrid.records import Ranges
from tests.single import SingleNet


def network(scale: float = 1.0, batch: int = 1) -> SingleNet:
    net = SingleNet(batch, 3, 16, 16)
    x = net.conv("input", 3, 24, 3)
    weight = net.const(scale * net.random.normal(size=(32, 24, 3, 3)))
    net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", net.op("Conv", net.op("Relu", x), weight))))
    return net


def save(path: Path, net: SingleNet, output: str = "") -> str:
    path.write_bytes(net.graph(output or net.last_outputs()[0]).to_bytes())
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a small network and 10 images, and a cache of its own."""
    folder = tmp_path_factory.mktemp("portable")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEHYBRID_CACHE_DIR", str(folder / "cache"))
        os.chdir(folder)
        save(folder / "net.onnx", network())
        np.savez("images.npz", x=np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8))
        yield folder
        os.chdir(before)


def calibrate(output: str, **options: object) -> Path:
    made = edgehybrid.calibrate(model="net.onnx", calib="images.npz", crop_pct=1.0, output=Path(output), **options)  # type: ignore[arg-type]
    return Path(made.path)


@pytest.mark.parametrize("method", ["mse", "minmax", "percentile", "entropy"])
def test_merged_parts_are_the_file_of_one_pass(method: str, home: Path) -> None:
    whole = calibrate("whole.json", method=method)
    parts = [calibrate(f"part{i}.json", method=method, shard=f"{i}/3") for i in (1, 2, 3)]
    merged = edgehybrid.calibrate(merge=[parts[2], parts[0], parts[1]], output=Path("merged.json"))
    assert Path(merged.path).read_bytes() == whole.read_bytes()
    assert merged.notes == ("3 files merged, 10 images in all",)


@pytest.mark.parametrize("refine", ["biases", "all"])
def test_a_tuned_graph_is_the_same_in_any_order_of_the_images(refine: str, home: Path) -> None:
    images = np.load("images.npz")["x"]
    made = []
    for name, order in (("given", np.arange(10)), ("turned", np.arange(10)[::-1]), ("dealt", np.arange(10) * 3 % 10)):
        np.savez(f"{name}.npz", x=images[order])
        tuned = edgehybrid.quantize(
            model="net.onnx",
            calib=f"{name}.npz",
            crop_pct=1.0,
            target="cpu",
            refine=refine,  # type: ignore[arg-type]
            rounding="optimized",
            output=Path(f"{name}.onnx"),
        )
        made.append(Path(tuned.path).read_bytes())
    assert made[0] == made[1] == made[2]


def test_without_class_scores_ranges_are_ranked_without_gradients(home: Path) -> None:
    net = SingleNet(1, 3, 16, 16)
    x = net.op("Relu", net.conv("input", 3, 24, 3))
    (home / "map.onnx").write_bytes(net.graph(net.conv(x, 24, 16, 3)).to_bytes())
    made = edgehybrid.quantize(model="map.onnx", calib="images.npz", target="cpu", refine="all")
    assert Path(made.path).is_file()


@pytest.mark.parametrize("target", ["cpu", "orin-nano-8gb"])
def test_ranges_from_a_file_give_the_graph_of_a_calibration(target: str, home: Path) -> None:
    ranges = calibrate("ranges.json")
    common = {
        "model": "net.onnx",
        "calib": "images.npz",
        "crop_pct": 1.0,
        "target": target,
        "equalize": "off",
        "refine": "off",
    }
    plain = edgehybrid.quantize(**common, output=Path("plain.onnx"))  # type: ignore[arg-type]
    reused = edgehybrid.quantize(**common, ranges=ranges, output=Path("reused.onnx"))  # type: ignore[arg-type]
    assert Path(plain.path).read_bytes() == Path(reused.path).read_bytes()


def test_offsets_and_exponent_travel_with_the_ranges(home: Path) -> None:
    net = SingleNet(1, 3, 16, 16)
    away = net.const(np.reshape([-200.0, 200.0] * 16, (1, 32, 1, 1)))
    sides = [net.op("Relu", net.conv("input", 3, 32, 3)) for _ in range(2)]
    x = net.conv(net.op("Add", net.op("Add", sides[0], away), sides[1]), 32, 16)
    save(home / "stream.onnx", net, net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", x))))
    common = {"model": "stream.onnx", "calib": "images.npz", "crop_pct": 1.0, "target": "cpu"}
    built = edgehybrid.build(**common, refine="off", precision="int8", output=Path("stream"))  # type: ignore[arg-type]
    assert any(a.kind == "centering" and a.accepted for a in built.adjustments)
    kept = json.loads(Path("stream/calibration.json").read_bytes())
    assert len(kept["offsets"]) == 1
    assert kept["exponent"] == 2
    again = edgehybrid.quantize(**common, ranges=Path("stream/calibration.json"), output=Path("again.onnx"))  # type: ignore[arg-type]
    assert Path(again.path).read_bytes() == Path("stream/model.onnx").read_bytes()


def test_layers_that_few_images_fill_stay_float_with_the_ranges_too(home: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    mean = np.array([124, 116, 104])
    pixels[1:] = mean + np.rint((pixels[1:] - 128.0) / 64)  # all but the first are nearly grey
    np.savez("loud.npz", x=pixels)
    net = SingleNet(1, 3, 16, 16)
    loud = net.op("Relu", net.op("Conv", "input", net.weight(32, 3, 3, 3)))
    even = net.op("Relu", net.op("InstanceNormalization", net.conv(loud, 32, 32), *(net.const(np.ones(32)),) * 2))
    last = net.op("Relu", net.conv(even, 32, 32))
    save(home / "loud.onnx", net, net.op("Flatten", net.op("GlobalAveragePool", last)))
    common = {"model": "loud.onnx", "calib": "loud.npz", "crop_pct": 1.0, "target": "cpu", "precision": "int8"}
    built = edgehybrid.build(**common, refine="off", output=Path("loud"))  # type: ignore[arg-type]
    rules = {d.tensor: d.rule for d in built.placement if d.op == "Conv" and d.input == 0}
    assert (rules[loud], rules[even]) == ("uneven", "conv-int8")
    kept = json.loads(Path("loud/calibration.json").read_bytes())
    assert kept["exponent"] == 3
    assert list(kept["uneven"]) == [loud]
    assert 0 < kept["uneven"][loud] < 127 / 8
    assert any("1 layer stays float" in note for note in built.notes)
    again = edgehybrid.build(**common, ranges=Path("loud/calibration.json"), output=Path("again"))  # type: ignore[arg-type]
    assert Path("again/model.onnx").read_bytes() == Path("loud/model.onnx").read_bytes()
    assert again.placement == built.placement


def test_a_bundle_made_with_ranges_says_where_they_came_from(home: Path) -> None:
    ranges = calibrate("entropy.json", method="entropy", num_calib=6)
    built = edgehybrid.build(
        model="net.onnx", calib="images.npz", crop_pct=1.0, target="cpu", ranges=ranges, output=Path("bundle")
    )
    assert built.calibration is not None
    assert (built.method, built.calibration.images, built.calibration.source) == ("entropy", 6, str(ranges))
    assert "--ranges entropy.json" in built.command
    assert any("channels not equalized and biases not corrected" in note for note in built.notes)
    again = json.loads(Path("bundle/calibration.json").read_bytes())
    assert again["tensors"] == json.loads(ranges.read_bytes())["tensors"]
    third = edgehybrid.build(
        model="net.onnx", calib="images.npz", crop_pct=1.0, target="cpu",
        ranges=Path("bundle/calibration.json"), output=Path("bundle2"),
    )  # fmt: skip
    assert Path(third.bundle, "model.onnx").read_bytes() == Path("bundle/model.onnx").read_bytes()


def test_ranges_serve_every_batch_size_of_a_network_and_no_other_network(home: Path) -> None:
    ranges = calibrate("ranges.json")
    save(home / "larger.onnx", network(batch=4))
    save(home / "trained-on.onnx", network(scale=1.25))
    common = {"calib": "images.npz", "crop_pct": 1.0, "target": "cpu", "ranges": ranges}
    edgehybrid.quantize(model="larger.onnx", **common, output=Path("larger-int8.onnx"))  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="is of another network"):
        edgehybrid.quantize(model="trained-on.onnx", **common, output=Path("x.onnx"))  # type: ignore[arg-type]
    document = json.loads(ranges.read_bytes())
    missing, _ = document["tensors"].popitem()
    Path("partial.json").write_text(json.dumps(document | {"histograms": None}))
    with pytest.raises(ArtifactError, match="does not cover this network") as caught:
        edgehybrid.quantize(model="net.onnx", **(common | {"ranges": Path("partial.json")}), output=Path("x.onnx"))  # type: ignore[arg-type]
    assert missing in caught.value.why


def test_fingerprints_tell_networks_apart_but_not_batches() -> None:
    prints = [net.graph(net.last_outputs()[0]).fingerprint() for net in (network(), network(batch=4), network(1.25))]
    assert prints[0] == prints[1] != prints[2]
    assert graph.load(Path("net.onnx")).fingerprint() == prints[0]


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "1/0", "a/b", "1/2/3", "-1/4"])
def test_a_shard_that_is_none_is_refused(shard: str) -> None:
    with pytest.raises(UsageError, match="is no part"):
        calibrate("x.json", shard=shard)


def test_copies_of_an_image_are_in_one_shard(home: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    np.savez("copies.npz", x=pixels[[0, 0, 1, 2, 1, 3, 0]])
    images = dataset.load("copies.npz", split="calib")
    shards = [set(stages.take_shard(images, f"{i}/2").digests) for i in (1, 2)]
    assert [len(shard) for shard in shards] == [2, 2]
    assert not shards[0] & shards[1]


def test_an_empty_shard_is_refused() -> None:
    with pytest.raises(ImagesError, match=r"part 11/11 of images\.npz is empty"):
        calibrate("x.json", shard="11/11")


def test_options_that_contradict_each_other_are_refused(home: Path) -> None:
    ranges = calibrate("ranges.json")
    with pytest.raises(UsageError, match="--merge and --shard 1/2"):
        edgehybrid.calibrate(merge=[ranges, ranges], shard="1/2")
    with pytest.raises(UsageError, match="--merge and --input-size 999"):
        edgehybrid.calibrate(merge=[ranges, ranges], input_size=999)
    with pytest.raises(UsageError, match="--merge and --labels"):
        edgehybrid.calibrate(merge=[ranges, ranges], labels=Path("nowhere.txt"))
    for other in ({"refine": "off"}, {"ranges": ranges}):
        with pytest.raises(UsageError, match="--rounding optimized and --r"):
            edgehybrid.quantize(model="net.onnx", rounding="optimized", target="cpu", **other)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="given twice"):
        edgehybrid.calibrate(merge=[ranges, ranges], output=Path("x.json"))
    with pytest.raises(UsageError, match="--ranges has no meaning with --precision fp16"):
        edgehybrid.quantize(model="net.onnx", precision="fp16", ranges=ranges, target="cpu")
    with pytest.raises(UsageError, match=r"--method entropy contradicts ranges\.json"):
        edgehybrid.quantize(
            model="net.onnx", calib="images.npz", crop_pct=1.0, method="entropy", ranges=ranges, target="cpu"
        )


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
        st.floats(2**-20, 2**100),
        min_size=1,
    )
)
@settings(max_examples=50, deadline=None)
def test_every_line_of_an_nvdla_cache_is_a_name_and_a_scale(tensors: dict[str, float]) -> None:
    """TensorRT reads the part after the last colon as a big-endian float32."""
    head, *lines = calibration_cache(Ranges("mse", 1, "0" * 64, tensors)).decode("ascii").splitlines()
    assert head.startswith("TRT-")
    assert head.endswith("-EntropyCalibration2")
    found = {}
    for line in lines:
        name, _, packed = line.rpartition(": ")
        (found[name],) = struct.unpack(">f", bytes.fromhex(packed))
    assert found == {name: float(np.float32(amax / 127)) for name, amax in tensors.items()}
    uneven = Ranges("mse", 1, "0" * 64, tensors, uneven={next(iter(tensors)): 2.0})
    assert len(calibration_cache(uneven).splitlines()) == len(tensors)  # the heading and all but one
