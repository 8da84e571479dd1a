"""Open vSwitch without root, and load on the REST API."""
