"""What a build delivers: the files of a bundle, and how they are opened again.

names.py    what they are called
writing.py  a new bundle, and new engines in an old one
opening.py  graphs, report and answers of a bundle
engines.py  the engines that may be loaded here
"""

from edgehybrid.delivery.engines import has_engine, loadable_engines, verify_engines
from edgehybrid.delivery.names import ANSWERS, PLAN, plan_name
from edgehybrid.delivery.opening import (
    Graphs,
    digests,
    listed,
    loading,
    open_graphs,
    read_measured,
    read_report,
    runnable_files,
    spec_of,
    verify,
)
from edgehybrid.delivery.writing import adopt, without_engines, write, write_engines

__all__ = [
    "ANSWERS",
    "Graphs",
    "PLAN",
    "adopt",
    "digests",
    "has_engine",
    "listed",
    "loadable_engines",
    "loading",
    "open_graphs",
    "plan_name",
    "read_measured",
    "read_report",
    "runnable_files",
    "spec_of",
    "verify",
    "verify_engines",
    "without_engines",
    "write",
    "write_engines",
]
