"""Every variant of the zoo: exactness, memory and time of the export, NVIDIA's verdict, latency in ONNX Runtime.

    python benchmarks/zoo.py [--only NAME ...] [--parts exactness compile latency build] [--threads 1] [--seconds 3]
    python benchmarks/zoo.py --table

Each part of each variant runs in a process of its own (`variant.py`). The export is made for every part but `build`,
the whole command in int8 and in fp16, which runs only where it is asked for. Writes `benchmarks/results/zoo.json` after
every part; what was not asked for stays as it was: compile times may come from a busy machine and latency from a quiet
one, and each part keeps the load it ran under. A part that fails is written down with its last words, and the exit
code is 1. `--table` prints the table of `edgehybrid/zoo/README.md` from it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgehybrid.records import ModelCard
from edgehybrid.zoo.cards import CARDS

HERE = Path(__file__).parent
RESULT = HERE / "results" / "zoo.json"
PARTS = ("exactness", "compile", "latency", "build")
NAMES = tuple(card.name for card in CARDS)


def main() -> None:
    """Run what was asked for, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:3], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--threads", nargs="+", default=["1"], help="of latency")
    parser.add_argument("--seconds", default="3", help="timed per graph and thread count")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="print the README's table, do nothing else")
    options = parser.parse_args()
    if options.table:
        sys.stdout.write(make_table(read(options.output)) + "\n")
        return
    failed = False
    for name in sorted(options.only, key=lambda name: find(name).params):
        with tempfile.TemporaryDirectory(prefix="edgehybrid-zoo-") as folder:
            needed = ("export",) if set(options.parts) - {"build"} else ()
            for part in (*needed, *options.parts):
                extra = ["--threads", *options.threads, "--seconds", options.seconds] if part == "latency" else []
                found = run(part, name, folder, extra)
                document = read(options.output)
                document.setdefault(name, {})[part] = found
                write(options.output, document)
                sys.stdout.write(f"{name:18} {part:10} {summarise(part, found)}\n")
                sys.stdout.flush()
                failed |= "failed" in found or any(found.get(p, {}).get("exit_code") for p in ("int8", "fp16"))
                if "failed" in found and part == "export":
                    break
    sys.exit(int(failed))


def find(name: str) -> ModelCard:
    """The card of a variant."""
    return next(card for card in CARDS if card.name == name)


def run(part: str, name: str, folder: str, extra: list[str]) -> dict[str, Any]:
    """One child; where it fails, how it ended and what it said last."""
    root = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, str(HERE / "variant.py"), part, name, folder, *extra],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"failed": f"exit code {done.returncode}: {last}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summarise(part: str, found: dict[str, Any]) -> str:
    """One line for the screen."""
    if "failed" in found:
        return f"FAILED {found['failed']}"
    if part == "export":
        return f"{found['export_s']} + {found['rewrite_s']} s, {found['peak_rss_mb']:.0f} MiB"
    if part == "exactness":
        return f"rewritten {found['relative_error']:.1e}, golden {show_error(found['golden_error'])}"
    if part == "compile":
        return ", ".join(f"{p} {found[p]['verdict']} {found[p]['seconds']} s" for p in ("int8", "fp16"))
    if part == "build":
        return ", ".join(f"{p} exit code {found[p]['exit_code']} {found[p]['seconds']} s" for p in ("int8", "fp16"))
    return "; ".join(
        f"{r['threads']} threads: {show_latency(r, 'exported')}, rewritten {show_latency(r, 'rewritten')} "
        f"{show_speedup(r['speedup_rewritten'])}, int8 {show_latency(r, 'int8')} {show_speedup(r['speedup_int8'])}"
        for r in found["runs"]
    )


# --- the file -------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """Variant -> part -> what was found; empty where nothing was written yet."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write(path: Path, document: dict[str, Any]) -> None:
    """In one piece, variants in the order of the cards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = {name: document[name] for name in NAMES if name in document}
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(ordered, indent=1) + "\n")
    temporary.replace(path)


# --- the table ------------------------------------------------------------------------------------------


def make_table(document: dict[str, Any]) -> str:
    """Markdown: what is published, what is counted, what was measured; "-" where nothing was."""
    lines = [
        "| variant, px | published top-1, params, MACs | counted params, MACs | ImageNet weights | golden | rewritten "
        "| compiled int8, fp16 | fp32 p50 ms | int8 p50 ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [make_row(card, document.get(card.name, {})) for card in CARDS]
    return "\n".join(lines)


def make_row(card: ModelCard, found: dict[str, Any]) -> str:
    """One line of the table."""
    published = ", ".join(card.published.get(key, "-") for key in ("top1", "params", "macs"))
    if "pretraining" in card.published:
        published += " (22k)"
    export, exact, verdicts = (found.get(part, {}) for part in ("export", "exactness", "compile"))
    counted = f"{export['params'] / 1e6:.2f} M, {export['macs'] / 1e9:.3f} G" if "params" in export else "-"
    golden = show_error(exact["golden_error"]) if "golden_error" in exact else "-"
    rewritten = show_error(exact["relative_error"]) if "relative_error" in exact else "-"
    compiled = " / ".join(show_verdict(verdicts.get(precision)) for precision in ("int8", "fp16"))
    times = [show_single(found.get("latency", {}), name) for name in ("rewritten", "int8")]
    title = f"`{card.name}` {card.input_size}"
    cells = (title, published, counted, show_weights(card), golden, rewritten, compiled, *times)
    return f"| {' | '.join(cells)} |"


def show_weights(card: ModelCard) -> str:
    """How one comes by the authors' weights."""
    if card.weights_url is not None:
        return "download"
    return "by hand" if "--weights FILE" in card.weights_note else "none exist"


def show_error(error: float | None) -> str:
    """Two digits, or that nobody recorded the official network."""
    return "no fixture" if error is None else f"{error:.1e}" if error else "0"


def show_verdict(found: dict[str, Any] | None) -> str:
    """Accepted with its seconds, or not."""
    if found is None:
        return "-"
    return f"yes {found['seconds']:.0f} s" if found["verdict"] == "checked" else str(found["verdict"])


def show_single(latency: dict[str, Any], name: str) -> str:
    """Median with one thread and the ratio to the graph it came from, with its interval."""
    for run_ in latency.get("runs", ()):
        if run_["threads"] == 1:
            return f"{show_latency(run_, name)} {show_speedup(run_[f'speedup_{name}'])}"
    return "-"


def show_latency(found: dict[str, Any], name: str) -> str:
    """The median in ms with three digits."""
    value = found["latency_ms"][name]["p50"]
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def show_speedup(ratio: dict[str, Any]) -> str:
    """1.23x [1.20, 1.26]."""
    interval = "" if ratio["ci95"] is None else f" [{ratio['ci95'][0]:.2f}, {ratio['ci95'][1]:.2f}]"
    return f"{ratio['value']:.2f}x{interval}"


if __name__ == "__main__":
    main()
