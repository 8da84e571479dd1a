"""Run settings and their validation; imports nothing heavy."""
