"""Shared by scripts that run transfers or training."""
