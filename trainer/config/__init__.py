"""What a run is told; imports nothing heavy."""
