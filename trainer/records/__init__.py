"""Run directory, and what people see."""
