"""The part of common that touches the operating system and the network."""
