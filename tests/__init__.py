"""Tests: `tests/test_<module>.py` mirrors `edgehybrid/<module>.py`."""
