"""Both ends of the bus: what sends records of a stream, and what takes them in."""
