"""What measurements mean: rows, notes, next commands, and the gate."""

from edgehybrid.findings.commands import bench_command, command, next_command
from edgehybrid.findings.gate import gate, too_few
from edgehybrid.findings.notes import (
    control_notes,
    image_notes,
    output_notes,
    range_notes,
    ranking_notes,
    sample_notes,
    search_notes,
    speed_notes,
    tuning_notes,
    uneven_notes,
    weight_notes,
)
from edgehybrid.findings.rows import (
    accuracy_rows,
    answers,
    engine_rows,
    merge_answers,
    scored_elsewhere,
    subject_of,
    target_rows,
    timed_rows,
    tried_rows,
    with_latency,
)

__all__ = [
    "accuracy_rows",
    "answers",
    "bench_command",
    "command",
    "control_notes",
    "engine_rows",
    "gate",
    "merge_answers",
    "image_notes",
    "output_notes",
    "next_command",
    "range_notes",
    "ranking_notes",
    "sample_notes",
    "scored_elsewhere",
    "search_notes",
    "speed_notes",
    "subject_of",
    "target_rows",
    "timed_rows",
    "too_few",
    "tried_rows",
    "tuning_notes",
    "uneven_notes",
    "weight_notes",
    "with_latency",
]
