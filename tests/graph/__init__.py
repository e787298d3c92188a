"""Tests of edgehybrid.graph."""
