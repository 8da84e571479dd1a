"""A map brought to life."""
