"""The advance-reservation calendar: bandwidth booked on every link over time."""
