"""Light: signal quality over spans, and what carries what."""
