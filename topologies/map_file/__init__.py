"""A map's YAML file: its schema, its checks, and loading it."""
