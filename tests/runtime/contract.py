"""What every runner must do, whatever its backend: subclass `RunnerContract` and say how one is opened."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehybrid.errors import InputError
from edgehybrid.runtime import Runner, TensorInfo

SHAPE, CLASSES = (2, 3, 4, 4), 5


def feed(seed: int = 0) -> NDArray[np.float32]:
    """One batch for the network of the contract."""
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


class RunnerContract:
    """The network: input (2, 3, 4, 4) float32 -> logits (2, 5) float32, any function that depends on every pixel.

    A subclass names its backend's tests; its fixture `opened` opens a fresh runner of that network, its fixture
    `expected` computes the logits another way.
    """

    @pytest.fixture
    def opened(self) -> Callable[[], Runner]:
        raise NotImplementedError

    @pytest.fixture
    def expected(self) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        raise NotImplementedError

    def test_it_is_a_runner_and_says_its_shapes_and_types(self, opened: Callable[[], Runner]) -> None:
        with opened() as runner:
            assert isinstance(runner, Runner)
            assert dict(runner.inputs) == {"input": TensorInfo(SHAPE, np.dtype("float32"))}
            assert dict(runner.outputs) == {"logits": TensorInfo((SHAPE[0], CLASSES), np.dtype("float32"))}

    def test_outputs_are_the_networks(
        self, opened: Callable[[], Runner], expected: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    ) -> None:
        with opened() as runner:
            for seed in range(3):
                np.testing.assert_allclose(runner.run({"input": feed(seed)})["logits"], expected(feed(seed)), rtol=1e-4)

    def test_the_same_feed_gives_the_same_bits(self, opened: Callable[[], Runner]) -> None:
        with opened() as first, opened() as second:
            outputs = [runner.run({"input": feed()})["logits"] for runner in (first, first, second)]
        assert outputs[0].tobytes() == outputs[1].tobytes() == outputs[2].tobytes()

    def test_a_later_call_does_not_overwrite_an_output_or_a_feed(self, opened: Callable[[], Runner]) -> None:
        with opened() as runner:
            given = feed(0)
            first = runner.run({"input": given})["logits"]
            kept = first.copy()
            runner.run({"input": feed(1)})
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(given, feed(0))

    def test_an_array_that_is_not_contiguous_is_read_right(self, opened: Callable[[], Runner]) -> None:
        turned = np.ascontiguousarray(feed().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        assert not turned.flags.c_contiguous
        with opened() as runner:
            outputs = [runner.run({"input": x})["logits"] for x in (turned, feed())]
        np.testing.assert_array_equal(*outputs)

    @pytest.mark.parametrize(
        ("feeds", "said"),
        [
            ({}, r"found inputs \[\], needed \['input'\]"),
            ({"image": feed()}, r"found inputs \['image'\], needed \['input'\]"),
            ({"input": feed(), "more": feed()}, r"'more'"),
            ({"input": feed()[:1]}, r"found \(1, 3, 4, 4\), needed \(2, 3, 4, 4\)"),
            ({"input": feed()[0]}, r"found \(3, 4, 4\), needed \(2, 3, 4, 4\)"),
            ({"input": feed().astype(np.float64)}, "found float64, needed float32"),
            ({"input": feed().astype(np.uint8)}, "found uint8, needed float32"),
        ],
    )
    def test_a_feed_that_does_not_fit_is_refused_in_words(
        self, opened: Callable[[], Runner], feeds: dict[str, NDArray[np.generic]], said: str
    ) -> None:
        with opened() as runner:
            with pytest.raises(InputError) as caught:
                runner.run(feeds)
            assert runner.run({"input": feed()})["logits"].shape == (SHAPE[0], CLASSES)  # it goes on working
        assert re.search(said, caught.value.why)

    def test_it_closes_on_leaving_and_says_so(self, opened: Callable[[], Runner]) -> None:
        with opened() as runner:
            runner.run({"input": feed()})
        with pytest.raises(ValueError, match="closed"):
            runner.run({"input": feed()})

    def test_opening_and_closing_leaves_no_threads(self, opened: Callable[[], Runner]) -> None:
        def threads() -> int:
            return len(list(Path("/proc/self/task").iterdir()))  # native ones, too

        with opened() as first:  # whatever a library starts once and keeps
            first.run({"input": feed()})
        before, kept = threads(), []
        for _ in range(5):
            with opened() as runner:
                runner.run({"input": feed()})
            kept.append(runner)  # closing must free them, not the garbage collector
        deadline = time.monotonic() + 10  # the kernel may list a thread that has ended for a moment
        while threads() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threads() <= before
