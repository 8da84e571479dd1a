"""Draws a map: spans, ducts, and labels that do not overlap."""
