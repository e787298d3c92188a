"""Fixtures that are too slow to make more than once."""

import hypothesis
import pytest
import torch

from edgehybrid import exporter, zoo
from edgehybrid.graph import Graph
from tests.golden import fill

hypothesis.settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def cmt_ti_graph() -> Graph:
    """Plain exported CMT-Ti at 64 px with 10 classes; `clone()` it before editing.

    Weights are seeded, and no bias, gain or running statistic is at its initial 0 or 1: a rewrite that forgets one
    of them changes the output.
    """
    torch.set_num_threads(1)
    module, spec = zoo.load("cmt_ti", "random", num_classes=10, input_size=64)
    fill(module)
    return exporter.trace(module, spec)
