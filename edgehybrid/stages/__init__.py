"""The steps of a build as cached work: what each depends on, what files it leaves, what it cost."""

from edgehybrid.stages.answers import check_collapse, choosers_of, columns_of, labels_for, layer_noise, predict
from edgehybrid.stages.calibration import make_calibration, merge_calibrations, reuse_calibration, take_shard
from edgehybrid.stages.engine import build_engine, builds_here, suit_builder, why_not_here
from edgehybrid.stages.estimate import floors, work_of
from edgehybrid.stages.measurement import bench, measure, measure_power
from edgehybrid.stages.parser import check_parser, suit_parser
from edgehybrid.stages.quantization import Quantized, calibrate, find_peaks, quantize, quantize_alone, rewrite
from edgehybrid.stages.run import Run, place_of, require, versions
from edgehybrid.stages.sensitivity import How, Ranking, Unit, check_ranking, count_groups, rank_groups
from edgehybrid.stages.single import carry_over, of_one_image
from edgehybrid.stages.source import Exported, Source, export, fix_shapes
from edgehybrid.stages.timing import Timed, time_networks
from edgehybrid.stages.torch_engine import check_torch_flavor, compile_torch
from edgehybrid.stages.trial import Trial, try_engines
from edgehybrid.stages.tuning import Prepared, prepare, reuse

__all__ = [
    "Exported",
    "How",
    "Prepared",
    "Quantized",
    "Ranking",
    "Run",
    "Source",
    "Timed",
    "Trial",
    "Unit",
    "bench",
    "build_engine",
    "builds_here",
    "calibrate",
    "carry_over",
    "check_collapse",
    "check_parser",
    "check_torch_flavor",
    "choosers_of",
    "columns_of",
    "count_groups",
    "compile_torch",
    "check_ranking",
    "export",
    "floors",
    "find_peaks",
    "fix_shapes",
    "labels_for",
    "layer_noise",
    "measure",
    "measure_power",
    "merge_calibrations",
    "of_one_image",
    "place_of",
    "predict",
    "prepare",
    "quantize",
    "quantize_alone",
    "rank_groups",
    "require",
    "reuse_calibration",
    "reuse",
    "rewrite",
    "suit_builder",
    "suit_parser",
    "take_shard",
    "time_networks",
    "try_engines",
    "versions",
    "why_not_here",
    "work_of",
    "make_calibration",
]
