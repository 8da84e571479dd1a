"""Metrics, event stream and audit records."""
