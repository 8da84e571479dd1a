"""The run record, checkpoints, progress display and reports."""
