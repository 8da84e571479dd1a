"""OpenFlow state as plain data: what every switch should hold."""
