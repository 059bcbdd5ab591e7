"""Whole clusters in one process on a virtual clock, with a network that does what a seed says.

Origins, relays and edges are the real ones, with pages on disk; only clocks, ZeroMQ and the
registry are made up. ``python -m tests.sim SEED --trace`` shows what happened in one.
"""
