"""What an averaging reveals: secure aggregation, differential privacy, and measures of what a segment gives away."""
