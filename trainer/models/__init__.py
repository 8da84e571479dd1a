"""Neural networks that can be split at any layer."""
