"""Admission control: pure function of network, calendar, live reservations, request."""
