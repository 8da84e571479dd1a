"""Networks that can be cut at any layer."""
