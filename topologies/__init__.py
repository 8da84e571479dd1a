"""The maps Paceline knows, their loader, and the note a running emulation leaves for other programs."""
