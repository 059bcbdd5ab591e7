"""What every role of Headwater shares; it knows nobody."""

__version__ = "0.1.0"
