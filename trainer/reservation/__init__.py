"""Bandwidth for a run."""
