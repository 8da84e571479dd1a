"""Paced connections."""
