"""Messages between cloud and edges and their encoding; no sockets."""
