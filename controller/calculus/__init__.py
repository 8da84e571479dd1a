"""Network calculus: proven latency and jitter."""
