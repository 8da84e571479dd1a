"""Reservations with a life: the one writer and everything around it."""
