"""What origins, relays and edges say to each other, without any I/O."""
