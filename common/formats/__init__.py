"""Bytes to frames and back, one format a file, without any I/O."""
