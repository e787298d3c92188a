"""A part of an image set is a set of its own, and parts make up the whole."""

from pathlib import Path

import numpy as np
import pytest

from edgehybrid import dataset
from edgehybrid.records import Preprocess

PREPROCESS = Preprocess(8, 1.0)


@pytest.fixture
def images(tmp_path: Path) -> dataset.Images:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x=pixels, y=np.arange(7))
    return dataset.load(tmp_path / "set.npz")


def test_a_part_has_its_own_images_labels_and_digest(images: dataset.Images, tmp_path: Path) -> None:
    part = images.take([5, 1, 1])
    assert (len(part), part.spec.images) == (2, 2)
    assert part.labels is not None
    assert part.labels.tolist() == [1, 5]
    np.testing.assert_array_equal(part.image(1), images.image(5))
    np.testing.assert_array_equal(
        next(part.batches(PREPROCESS, 2)), np.concatenate(list(images.batches(PREPROCESS, 1)))[[1, 5]]
    )
    np.savez(tmp_path / "alone.npz", x=np.stack([images.image(1), images.image(5)]))
    assert part.spec.sha256 == dataset.load(tmp_path / "alone.npz").spec.sha256 != images.spec.sha256


def test_all_of_a_set_is_the_set(images: dataset.Images) -> None:
    again = images.take(range(7))
    assert (again.spec, again.digests, again.order) == (images.spec, images.digests, images.order)


def test_a_pick_belongs_to_the_set_and_not_to_its_order(images: dataset.Images, tmp_path: Path) -> None:
    turned = np.stack([images.image(index) for index in reversed(range(7))])
    np.savez(tmp_path / "turned.npz", x=turned)
    first, second = images.pick(3), dataset.load(tmp_path / "turned.npz").pick(3)
    assert len(first) == 3
    assert first.digests == second.digests == tuple(sorted(images.digests)[:3])
    np.testing.assert_array_equal(next(first.batches(PREPROCESS, 3)), next(second.batches(PREPROCESS, 3)))
    assert len(images.pick(100)) == 7
