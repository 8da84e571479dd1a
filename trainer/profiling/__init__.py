"""How long layers take."""
