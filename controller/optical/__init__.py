"""Lightpaths: physics, spectrum, grooming."""
