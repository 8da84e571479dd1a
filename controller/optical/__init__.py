"""Lightpaths: transmission quality, routing and spectrum assignment, grooming."""
