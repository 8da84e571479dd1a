"""OpenFlow state as plain data: the intended entries of every switch, and the order of updates."""
