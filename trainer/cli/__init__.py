"""`paceline ...`."""
