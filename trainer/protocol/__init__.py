"""What cloud and edges say; no sockets."""
