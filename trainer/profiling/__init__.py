"""Profiling and prediction of the computing time of layers."""
