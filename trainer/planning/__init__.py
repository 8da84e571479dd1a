"""The round plan."""
