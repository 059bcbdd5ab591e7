"""Sends every viewer to the right edge."""
