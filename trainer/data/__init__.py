"""Data sets, their partition over the edges, and standardization."""
