"""The REST application."""
