"""What stream tests share: a small network, a bundle of it, readers that do what they are told, clips."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgehybrid.records import Preprocess
from edgehybrid.streamer.capture import Health
from edgehybrid.streamer.network import Answer, Subject, Variant
from edgehybrid.streamer.source import LostError, Shot
from edgehybrid.streamer.synthetic import Scene

SIZE, CLASSES = 32, 6
PREPROCESS = Preprocess(SIZE, 1.0)


def write_network(path: Path, *, batch: int = 1, seed: int = 0) -> Path:
    """Mean colour -> 6 classes: as small as a network can be."""
    rng = np.random.default_rng(seed)
    weight = numpy_helper.from_array(rng.normal(0, 2, (3, CLASSES)).astype(np.float32), "weight")
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean colour",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (batch, 3, SIZE, SIZE))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (batch, CLASSES))],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def subject(folder: Path) -> Subject:
    """Two variants of the small network, with labels."""
    files = [write_network(folder / f"{name}.onnx", seed=seed) for seed, name in enumerate(("fp32", "int8"))]
    variants = tuple(Variant(path.stem, path, "onnxruntime") for path in files)
    return Subject("small", variants, "int8", PREPROCESS, tuple(f"colour {n}" for n in range(CLASSES)))


def picture(seed: int = 0, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Noise: certainly not blank."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class ListReader:
    """Gives what is in a list, then ends, breaks or hangs."""

    title = "a list"

    def __init__(
        self,
        pictures: Sequence[NDArray[np.uint8] | None],
        *,
        then: str = "end",
        pause: float = 0.0,
        age: float = 0.0,
        damaged: str | None = None,
    ) -> None:
        self._pictures, self._then, self._pause, self._age, self._damaged = pictures, then, pause, age, damaged
        self.closed = False

    def shots(self, wanted: Callable[[], bool]) -> Iterator[Shot]:
        for pixels in self._pictures:
            yield Shot(pixels, time.monotonic() - self._age, self._damaged)
            time.sleep(self._pause)
        if self._then == "break":
            raise LostError("connection reset")
        while self._then == "hang" and wanted():
            time.sleep(0.02)

    def close(self) -> None:
        self.closed = True


class Diary:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.late: list[bool] = []
        self.healths: list[Health] = []

    def answered(self, answer: Answer, *, late: bool) -> None:
        self.answers.append(answer)
        self.late.append(late)

    def changed(self, health: Health) -> None:
        self.healths.append(health)

    @property
    def ids(self) -> list[int]:
        return [answer.frame.id for answer in self.answers]


def write_clip(
    path: Path, frames: int = 20, fps: int = 20, size: tuple[int, int] = (96, 64), codec: str = "h264"
) -> Path:
    """A clip of the synthetic scene."""
    scene = Scene(*size)
    return write_pictures(path, (scene.draw(number / fps) for number in range(frames)), size, fps, codec)


def write_pictures(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    size: tuple[int, int],
    fps: int = 20,
    codec: str = "h264",
    options: dict[str, str] | None = None,
) -> Path:
    """A clip of these pictures."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps, options=options or {})
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        for pixels in pictures:
            for packet in video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in video.encode():
            container.mux(packet)
    return path


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
