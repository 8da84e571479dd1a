"""Time-sensitive networking: gate control lists for scheduled streams (IEEE 802.1Qbv), and their simulation."""
