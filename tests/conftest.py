"""Fixtures that are too slow to make more than once, and one thread for everybody."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before torch is imported anywhere. On busy cores its thread pool waits for itself: the float64 run of CMT-S took
# 130 s with two threads and 2 s with one (2 cores, load 6).

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest

from edgehybrid.graph import Graph

HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

hypothesis.settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("unhurried")


def pytest_runtest_call() -> None:
    """Commands that ran in this process left a handler of their own."""
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def cmt_ti_graph() -> Graph:
    """Plain exported CMT-Ti at 64 px with 10 classes; `clone()` it before editing.

    Weights are seeded, and no bias, gain or running statistic is at its initial 0 or 1: a rewrite that
    forgets one of them changes the output.
    """
    from edgehybrid import exporter, zoo
    from tests.golden import fill

    module, spec = zoo.load("cmt_ti", "random", num_classes=10, input_size=64)
    fill(module)
    return exporter.trace(module, spec)
