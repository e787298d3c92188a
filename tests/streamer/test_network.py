"""Preprocessing is evaluation's to the last bit; variants change on the fly; answers are probabilities."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgehybrid import dataset, runtime
from edgehybrid.errors import InputError, StageError, UsageError
from edgehybrid.records import Preprocess
from edgehybrid.runtime import TensorInfo, Tensors
from edgehybrid.streamer.frame import Frame
from edgehybrid.streamer.network import Network, Variant, best, tensor
from edgehybrid.streamer.pictures import PicturesReader
from tests.fakes import FakeRunner
from tests.streamer.scenes import picture, subject, write_network


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_the_streams_tensor_is_evaluations_to_the_last_bit(tmp_path: Path, crop_pct: float, interpolation: str) -> None:
    for number, (height, width) in enumerate(((48, 64), (97, 33), (240, 320))):
        Image.fromarray(picture(number, height, width)).save(tmp_path / f"{number}.png")
    preprocess = Preprocess(32, crop_pct, interpolation=interpolation)  # type: ignore[arg-type]
    evaluated = list(dataset.load(tmp_path).batches(preprocess, 1))
    streamed = [tensor(shot.pixels, preprocess) for shot in PicturesReader(str(tmp_path)).shots(lambda: True)]
    assert len(streamed) == 3
    for ours, theirs in zip(streamed, evaluated, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()


def test_variants_change_between_two_frames_and_each_answer_says_whose_it_is(tmp_path: Path) -> None:
    frame = Frame(0, picture(), time.monotonic(), live=True)
    with Network(subject(tmp_path), threads=1) as network:
        before = network.answer(frame)
        network.choose("fp32")
        assert network.wanted == "fp32"
        end = time.monotonic() + 10
        while (after := network.answer(frame)).variant == "int8" and time.monotonic() < end:
            time.sleep(0.01)
        assert (before.variant, after.variant) == ("int8", "fp32")
        assert before.top != after.top
        with pytest.raises(UsageError, match="no variant fp8"):
            network.choose("fp8")


def test_a_variant_that_does_not_load_leaves_the_old_one_running(tmp_path: Path) -> None:
    whole = subject(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    broken = Variant("broken", tmp_path / "broken.onnx", "onnxruntime")
    frame = Frame(0, picture(), time.monotonic(), live=True)
    with Network(replace(whole, variants=(*whole.variants, broken)), threads=1) as network:
        network.choose("broken")
        end = time.monotonic() + 10
        while not network.problem and time.monotonic() < end:
            time.sleep(0.01)
        assert "broken" in network.problem
        assert (network.answer(frame).variant, network.wanted) == ("int8", "int8")


class BrokenRunner(FakeRunner):
    """A backend that fails in a way of its own."""

    def __init__(self, path: Path, **options: object) -> None:
        raise OSError("the driver went away")


def test_a_variant_that_fails_in_an_unforeseen_way_leaves_the_others_to_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(runtime.BACKENDS, "broken", f"{__name__}:BrokenRunner")
    monkeypatch.setitem(runtime._OPTIONS, "broken", ())
    whole = subject(tmp_path)
    odd = Variant("odd", tmp_path / "odd.plan", "broken")
    (tmp_path / "odd.plan").touch()
    frame = Frame(0, picture(), time.monotonic(), live=True)
    with Network(replace(whole, variants=(*whole.variants, odd)), threads=1) as network:
        for name, reached in (("odd", lambda: network.problem), ("fp32", lambda: network.current.name == "fp32")):
            network.choose(name)
            end = time.monotonic() + 10
            while not reached() and time.monotonic() < end:
                network.answer(frame)
            assert reached()


def test_of_several_outputs_the_class_scores_are_shown(tmp_path: Path) -> None:
    whole = subject(tmp_path)
    frame = Frame(0, picture(), time.monotonic(), live=True)
    with Network(whole, threads=1) as network:
        plain = network.answer(frame).top
    model = onnx.load(tmp_path / "int8.onnx")
    mean = onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, (1, 3, 1, 1))
    scores = model.graph.output.pop()
    model.graph.output.extend([mean, scores])
    onnx.save(model, tmp_path / "int8.onnx")
    with Network(whole, threads=1) as network:
        assert network.answer(frame).top == plain
    del model.graph.output[1]
    onnx.save(model, tmp_path / "int8.onnx")
    with pytest.raises(InputError, match="cannot run on a stream") as caught:
        Network(whole)
    assert "class scores" in caught.value.why


class HalfRunner(FakeRunner):
    """A backend that takes float16 pictures, as an engine may."""

    def __init__(self, path: Path, **options: object) -> None:
        super().__init__(lambda images: images.mean((2, 3)) @ np.eye(3, 6, dtype=np.float32), shape=(1, 3, 32, 32))
        self.inputs = {"input": TensorInfo((1, 3, 32, 32), np.dtype("float16"))}

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        assert feeds["input"].dtype == np.float16
        return super().run(feeds)


def test_any_backend_of_the_table_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runtime.BACKENDS, "half", f"{__name__}:HalfRunner")
    monkeypatch.setitem(runtime._OPTIONS, "half", ())  # as an engine, it knows no CPU threads
    whole = subject(tmp_path)
    variant = Variant("fp16", tmp_path / "engine.plan", "half")
    with Network(replace(whole, variants=(variant,), first="fp16"), threads=1) as network:
        answer = network.answer(Frame(0, picture(), time.monotonic(), live=True))
    assert answer.variant == "fp16"
    assert sum(share for _, share in answer.top) <= 1.0001


def test_a_network_for_batches_is_refused(tmp_path: Path) -> None:
    whole = subject(tmp_path)
    write_network(tmp_path / "int8.onnx", batch=4)
    with pytest.raises(InputError, match="cannot run on a stream") as caught:
        Network(whole)
    assert "--batch 1" in caught.value.fix


def test_logits_become_probabilities_and_probabilities_stay() -> None:
    logits = np.array([[1.0, 3.0, 2.0, -1.0, 0.0, 1000.0]], np.float32)
    top = best(logits)
    assert [number for number, _ in top] == [5, 1, 2, 0, 4]
    assert top[0][1] == pytest.approx(1)
    shares = np.array([[0.1, 0.6, 0.3]], np.float32)
    assert best(shares) == tuple((n, float(shares[0, n])) for n in (1, 2, 0))
    with pytest.raises(StageError, match="no number"):
        best(np.array([[1.0, np.nan]]))


def test_classes_without_a_label_are_numbered(tmp_path: Path) -> None:
    whole = subject(tmp_path)
    assert whole.label(2) == "colour 2"
    assert replace(whole, labels=()).label(2) == "class 2"
