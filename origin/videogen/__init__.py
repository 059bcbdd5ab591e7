"""The generated test stream: a moving picture with its clock, a beep on the second, metadata."""
