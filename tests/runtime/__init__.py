"""Tests of `edgehybrid/runtime/`."""
