"""Takes streams in for a datacenter and sends them on to its edges: an edge without viewers."""
