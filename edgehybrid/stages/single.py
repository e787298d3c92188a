"""Calibrate image by image, whatever batch is built: what is found is the same to the last bit for every `--batch`."""

from dataclasses import replace
from pathlib import Path

from edgehybrid.dataset import Images
from edgehybrid.progress import listener
from edgehybrid.stages.equalization import apply_known
from edgehybrid.stages.quantization import rewrite
from edgehybrid.stages.run import Run
from edgehybrid.stages.source import Exported, Source, export
from edgehybrid.stages.tuning import Prepared


def of_one_image(run: Run, source: Source, made: Exported, images: Images, baseline: Path) -> Path:
    """The rewritten float32 graph of the same network for one image at a time.

    It is the graph itself where a batch of one is built, or where the file allows no other than its own.

    Args:
        run: The chain.
        source: What is built.
        made: Its export.
        images: A few of them check the export.
        baseline: Its rewritten graph.
    """
    if source.batch == 1:
        return baseline
    from edgehybrid import graph

    listener().note("calibrating one image at a time, so that scales do not depend on --batch: exported once more")
    single = rewrite(run, export(run, replace(source, batch=1), images, made).path)
    if run.open(single).fingerprint() == graph.load(baseline).fingerprint():
        return single
    listener().note(
        f"calibrated {source.batch} images at a time, as the network has other layers for one: scales can differ in "
        "the last bits from those of another --batch"
    )
    return baseline


def carry_over(run: Run, prepared: Prepared, baseline: Path) -> Prepared:
    """The same ranges and tuning for the graph of another batch.

    Args:
        run: The chain.
        prepared: Of one image.
        baseline: The other graph, float32 and rewritten, with the same operators and tensors.
    """
    if prepared.ranges is None:
        return prepared
    return replace(prepared, path=apply_known(run, baseline, prepared.ranges))
