"""The advance-reservation calendar: what is taken where, from when to when."""
