"""Counting the cores a process may use."""

from pathlib import Path

import pytest

from edgehybrid.cores import available_cores
from tests.fakes import laptop_files, write_tree


def test_hyper_threads_of_one_core_count_once(tmp_path: Path) -> None:
    write_tree(tmp_path, laptop_files())
    assert available_cores(tmp_path, allowed=range(4)) == 2
    assert available_cores(tmp_path, allowed={0, 2}) == 1
    assert available_cores(tmp_path, allowed={1, 2}) == 2


def test_without_topology_every_cpu_is_a_core(tmp_path: Path) -> None:
    assert available_cores(tmp_path, allowed=range(6)) == 6


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("300000 100000", 3), ("250000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8),
     ("", 8), ("nonsense", 8)],
)  # fmt: skip
def test_a_containers_quota_bounds_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    write_tree(tmp_path, {"sys/fs/cgroup/cpu.max": quota})
    assert available_cores(tmp_path, allowed=range(8)) == cores


def test_this_machine_has_at_least_one() -> None:
    assert available_cores() >= 1
