"""Settings and measurements of the Linux machine that runs an emulation."""
