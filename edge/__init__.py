"""Keeps a copy of the streams that are watched and serves viewers from it."""
