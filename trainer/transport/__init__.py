"""Paced TCP connections."""
