"""Where the seconds of a whole build go, with an empty cache and again with a full one.

    python benchmarks/stages.py [--calib DIR] [--num-calib 128] [--target orin-nano-8gb]

Runs `edgehybrid build --model cmt_ti --precision int8` twice in a fresh process each, with a cache folder of its own.
Writes `benchmarks/results/stages.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "stages.json"


def main() -> None:
    """Build twice, print the stages, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cmt_ti")
    parser.add_argument("--calib", default="photos")
    parser.add_argument("--num-calib", type=int, default=64)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    calib = Path(options.calib).resolve() if Path(options.calib).exists() else options.calib
    words = ["--model", options.model, "--weights", "random", "--precision", "int8", "--target", options.target]
    words += ["--calib", str(calib), "--num-calib", str(options.num_calib), "--json", "--quiet"]
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("empty cache", "same build again"):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "edgehybrid", "build", *words],
                cwd=folder,
                env={**os.environ, "EDGEHYBRID_CACHE_DIR": f"{folder}/cache"},
                capture_output=True,
                text=True,
                check=True,
            )
            seconds = time.perf_counter() - start
            report = json.loads(done.stdout)
            in_stages = sum(stage["seconds"] for stage in report["stages"])
            print(f"{name}: {seconds:.1f} s, of which {in_stages:.1f} s in stages")
            for stage in report["stages"]:
                print(f"  {stage['name']:<16} {stage['seconds']:7.2f} s  {'cached' if stage['cached'] else ''}")
            runs.append(
                {"run": name, "seconds": round(seconds, 2), "stages": report["stages"], "device": report["device"]}
            )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    document = {"command": ["edgehybrid", "build", *words], "runs": runs}
    options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
