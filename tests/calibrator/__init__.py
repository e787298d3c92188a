"""Tests of edgehybrid.calibrator."""
