"""The edge node: holds data and the first layers of the model."""
