"""Equalization: accepted where it measures better, the same function, and written down completely."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehybrid.calibrator import Samples, range_of, sample
from edgehybrid.errors import ArtifactError
from edgehybrid.graph import Graph, load, name_of
from edgehybrid.graph.products import find_products
from edgehybrid.placement import plan, tie
from edgehybrid.records import Adjustment, Equalize
from edgehybrid.tuner import apply_factors, center, equalize, scale_rows
from tests.single import SingleNet, draw, run
from tests.tuner import nets


def level(graph: Graph, sites: Equalize = "all") -> tuple[Graph, dict[str, str], tuple[Adjustment, ...]]:
    kept = taken(graph)
    return equalize(graph, plan(graph, "fp32"), kept.rows, kept.span, kept.early_span, range_of, sites=sites)


def taken(graph: Graph) -> Samples:
    """Rows of eight images."""
    products = list(find_products(graph, plan(graph, "fp32")).values())
    images = np.concatenate([draw(graph, seed) for seed in range(8)])
    return sample(graph, [images], products, 8, threads=1)


def test_uneven_channels_are_equalized_and_the_function_stays() -> None:
    graph = nets.normed(spread=2.0)
    result, factors, records = level(graph)
    (norm,) = [r for r in records if "LayerNormalization takes" in r.note]
    assert norm.accepted
    assert norm.after_db > norm.before_db + 3
    assert norm.site in factors
    x = draw(graph, 99)
    before = run(graph, x)[0]
    np.testing.assert_allclose(run(result, x)[0], before, atol=2e-5 * np.abs(before).max())


def test_factors_around_the_means_do_not_see_offsets_that_centring_takes_off() -> None:
    (alone, _), (far, graph) = (norm_of(offset) for offset in (0.0, 300.0))
    assert "around the means" in far.note
    assert far.accepted
    assert far.after_db == pytest.approx(alone.after_db, abs=1)
    result, factors, _ = level(graph)
    rows = scale_rows(graph, factors, taken(graph).rows)
    _, _, (centring,) = center(result, plan(graph, "fp32"), rows, range_of)
    assert centring.accepted
    assert centring.after_db == pytest.approx(far.after_db, abs=1)
    (left_alone,) = [r for r in level(graph, "folded")[2] if r.site == far.site]
    assert "around" not in left_alone.note  # folded centres nothing


def test_every_channel_of_a_norm_that_strays_fills_the_range() -> None:
    norm, graph = norm_of(300.0)
    assert "alpha 1 around the means" in norm.note
    kept = taken(graph)
    reader = name_of(next(graph.nodes("MatMul")).outputs[0])
    reach = np.abs(kept.span[reader] - kept.rows[reader][0].mean(axis=0)).max(axis=0)
    _, factors, _ = level(graph)
    filled = reach * np.exp2(np.array(factors[norm.site].split(), float) / 8)
    large = reach > reach.max() / 16
    assert large.sum() > 16
    assert filled[large].max() / filled[large].min() == pytest.approx(1, abs=0.15)  # exponents are whole eighths


def norm_of(offset: float) -> tuple[Adjustment, Graph]:
    """What became of a norm whose channels vary differently and stand that far from zero."""
    graph = nets.normed(spread=2.0, offset=offset)
    (norm,) = [r for r in level(graph)[2] if "LayerNormalization takes" in r.note]
    return norm, graph


def test_only_what_measures_better_is_changed() -> None:
    for graph in (nets.normed(spread=0.0), nets.joined(), nets.rectified()):
        _, factors, records = level(graph)
        for record in records:
            assert record.accepted == (record.site in factors)
            assert not record.accepted or record.after_db > record.before_db + 0.2


def test_channels_that_some_images_hardly_use_are_raised_less() -> None:
    record, factors = judge({"all": uneven_rows(late=0.5)})
    assert record.accepted
    assert "channels below 1/4 of the largest alike" in record.note
    exponents = np.array(factors[record.site].split(), int)
    assert exponents.max() - exponents.min() <= 16  # a factor of 4, in eighths of an octave


def test_channels_that_all_images_hardly_use_are_raised() -> None:
    record, _ = judge({"all": uneven_rows(late=1 / 16)})
    assert record.accepted
    assert "alike" not in record.note


@pytest.mark.parametrize(("late", "accepted"), [(0.5, True), (0.9, False)])
def test_no_reader_pays_for_another(late: float, accepted: bool) -> None:
    """The first gains from factors in any case, the second loses where its weak channels turn loud."""
    record, _ = judge({"weak": uneven_rows(late=1 / 16), "all": uneven_rows(late=late)})
    assert record.accepted == accepted
    assert record.after_db > record.before_db + 1


@pytest.mark.parametrize(("late", "accepted"), [(0.3, True), (0.9, False)])
def test_a_reader_with_noise_to_spare_may_lose(late: float, accepted: bool) -> None:
    """The second reads no channel that is raised, and has fewer levels where they turn loud."""
    record, _ = judge({"weak": uneven_rows(late=1 / 16), "strong": uneven_rows(late=late)})
    assert record.accepted == accepted
    assert ("alike" in record.note) != accepted


def uneven_rows(late: float) -> NDArray[np.float32]:
    """(1, 512, 32): channels of a quarter of the range but every eighth; three a sixteenth, later `late`."""
    rows = np.random.default_rng(5).uniform(0, 1, (1, 512, 32)).astype(np.float32)
    rows[..., np.arange(32) % 8 != 0] /= 4
    rows[:, :256, 1:4] /= 4
    rows[:, 256:, 1:4] *= 4 * late
    return rows


def judge(samples: Mapping[str, NDArray[np.float32]]) -> tuple[Adjustment, dict[str, str]]:
    """A rectified map with a convolution for each sample, named after the channels it reads: all, weak, strong."""
    net = SingleNet(1, 24, 8, 8)
    x = net.op("Relu", net.conv("input", 24, 32))
    strong = np.arange(32) % 8 == 0
    read = {"all": strong | ~strong, "weak": ~strong, "strong": strong}
    outputs = [
        net.op("Conv", x, net.const(net.random.normal(size=(16, 32, 1, 1)) * read[name][:, None, None]))
        for name in samples
    ]
    graph = net.graph(net.op("Concat", *outputs, axis=1))
    readers = [p.output for p in find_products(graph, plan(graph, "fp32")).values() if p.weight.shape[2] == 32]
    rows = dict(zip(readers, samples.values(), strict=True))
    span, early = (
        {name: np.stack([each[0, :n].min(axis=0), each[0, :n].max(axis=0)]) for name, each in rows.items()}
        for n in (512, 256)
    )
    _, factors, (record,) = equalize(graph, plan(graph, "fp32"), rows, span, early, range_of)
    return record, factors


def test_a_tensor_that_shares_its_range_is_judged_and_scaled_with_the_others() -> None:
    graph = nets.shared_stem()
    made = plan(graph, "fp32")
    (tied,) = tie(graph, made)
    kept = taken(graph)
    alone, together = (
        equalize(graph, made, kept.rows, kept.span, kept.early_span, range_of, tied=groups)[2][0]
        for groups in ((), (tied,))
    )
    assert alone.site == together.site == tied[0]
    assert together.accepted
    assert together.before_db < alone.before_db - 15  # the stem has the range of what is loud
    assert together.after_db > together.before_db + 15


def test_a_range_shared_with_a_tensor_of_another_region_counts() -> None:
    net = SingleNet(1, 32, 6, 6)
    quiet = net.op("Relu", net.conv("input", 32, 32))
    fixed = net.op("Add", net.op("Mul", "input", net.const(64.0)), "input")
    first, second = net.conv(quiet, 32, 32), net.conv(fixed, 32, 32)
    graph = net.graph(net.op("Add", first, second))
    made, kept = plan(graph, "fp32"), taken(graph)
    records = {}
    for tied in ((), ((quiet, fixed),)):
        _, _, found = equalize(graph, made, kept.rows, kept.span, kept.early_span, range_of, tied=tied)
        (records[bool(tied)],) = (record for record in found if record.site == quiet)
    assert records[True].before_db < records[False].before_db - 15


NETS = [nets.normed(), nets.rectified(), nets.gated(), nets.fused(), nets.swished(), nets.attending()]


def test_the_factors_make_the_same_graph_again() -> None:
    for graph in NETS:
        result, factors, records = level(graph)
        assert len(factors) == sum(r.accepted for r in records)
        assert apply_factors(graph, factors).digest() == result.digest()


@pytest.mark.parametrize("graph", NETS)
def test_the_equalized_graph_is_what_is_read_back_from_its_file(graph: Graph, tmp_path: Path) -> None:
    result, factors, _ = level(graph)
    assert factors
    (tmp_path / "equalized.onnx").write_bytes(result.to_bytes())
    assert load(tmp_path / "equalized.onnx").to_bytes() == result.to_bytes()


@pytest.mark.parametrize("graph", NETS)
def test_scaled_rows_are_what_the_equalized_graph_gives(graph: Graph) -> None:
    result, factors, _ = level(graph)
    assert factors
    expected, found = taken(result).rows, scale_rows(graph, factors, taken(graph).rows)
    assert expected.keys() == found.keys()
    for name, rows in expected.items():
        np.testing.assert_allclose(found[name], rows, atol=1e-5 * np.abs(rows).max())


def test_folded_leaves_the_constant_of_a_gelu() -> None:
    graph = nets.gated()
    everything, folded = level(graph)[2], level(graph, "folded")[2]
    assert len(folded) < len(everything)
    halves = [n.inputs[1] for n in level(graph, "folded")[0].nodes("Mul") if n.inputs[1] is not None]
    assert all(v.const_value is None or v.const_value.size == 1 for v in halves)


def test_a_gelu_of_one_operator_gets_a_product_only_where_factors_went_in() -> None:
    graph = nets.fused()
    assert not list(graph.nodes("Mul"))
    result, factors, records = level(graph)
    grown = [node for node in result.nodes("Mul") if name_of(node.outputs[0]) in factors]
    assert len(grown) == len(list(result.nodes("Mul"))) == sum(record.accepted for record in records)
    assert 0 < len(grown) < len(list(graph.nodes("Gelu")))
    assert level(graph, "folded")[0].digest() == graph.digest()
    x = draw(graph, 99)
    before = run(graph, x)[0]
    np.testing.assert_allclose(run(result, x)[0], before, atol=2e-5 * np.abs(before).max())


def test_off_changes_nothing() -> None:
    graph = nets.normed()
    result, factors, records = level(graph, "off")
    assert (result.digest(), factors, records) == (graph.digest(), {}, ())


@pytest.mark.parametrize("factors", [{"nowhere": "0 1"}, {"layernormalization_3": "0 1 2"}])
def test_factors_of_another_network_are_refused(factors: dict[str, str]) -> None:
    with pytest.raises(ArtifactError, match="do not fit"):
        apply_factors(nets.normed(), factors)


def test_the_largest_value_never_grows() -> None:
    graph = nets.normed()
    result, factors, _ = level(graph)
    x = draw(graph, 3)
    for name in factors:
        assert np.abs(run(result, x, name)[1]).max() <= 1.5 * np.abs(run(graph, x, name)[1]).max()
