"""The cloud node: manages edges, plans rounds, trains and averages."""
