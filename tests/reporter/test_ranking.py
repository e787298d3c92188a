"""The ranking of layers as table, CSV and JSON."""

import csv
import io
import json

from rich.console import Console

from edgehybrid.records import GroupLoss, ImageSet, LayerGroup, RankCheck, Sensitivity
from edgehybrid.reporter import document_of, ranking_file
from edgehybrid.reporter.ranking import to_table


def ranked(count: int = 20, check: bool = True) -> Sensitivity:
    groups = tuple(
        GroupLoss(
            LayerGroup(f"/blocks.{i}/mlp", "mlp", (f"/blocks.{i}/fc1", f"/blocks.{i}/fc2"), 1000),
            2.0**-i,
            50.0 / 2**i,
            2.0**-i if check else None,
        )
        for i in range(count)
    )
    checked = RankCheck(8, 1.0 + count, 0.93, disjoint=True) if check else None
    images = ImageSet("mine", "/photos", 128, "0" * 64)
    return Sensitivity("[red]net", False, "fisher", 120, 4.0, groups, checked, images, "mse", ("a note",))


def text_of(result: Sensitivity) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(to_table(result))
    return console.export_text()


def test_the_table_names_the_costliest_and_says_how_the_rest_is_seen() -> None:
    text = text_of(ranked())
    assert "[red]net, UNTRAINED WEIGHTS: 20 groups" in text
    assert "/blocks.0/mlp" in text
    assert "/blocks.16/mlp" not in text
    assert "and 5 more" in text
    assert "4.0 forward passes per image on 120 images" in text
    assert "Spearman 0.93 over 20 groups, 21 forward passes per image on 8 other images" in text
    assert "note: a note" in text


def test_without_a_check_nothing_is_claimed() -> None:
    text = text_of(ranked(3, check=False))
    assert "Spearman" not in text
    assert "measured" not in text
    assert "more" not in text


def test_files_hold_every_group() -> None:
    rows = list(csv.DictReader(ranking_file(ranked(), ".csv").decode().splitlines()))
    assert len(rows) == 20
    assert rows[0] == {
        "rank": "1",
        "group": "/blocks.0/mlp",
        "kind": "mlp",
        "nats": "1.0",
        "percent": "50.0",
        "checked_nats": "1.0",
        "macs": "1000",
        "nodes": "/blocks.0/fc1 /blocks.0/fc2",
    }
    document = json.loads(ranking_file(ranked(), ".json"))
    assert document["schema"] == "edgehybrid.sensitivity/1"
    assert document == json.loads(json.dumps(document_of(ranked())))
