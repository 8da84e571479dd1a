"""Network calculus: bounds on latency and jitter."""
