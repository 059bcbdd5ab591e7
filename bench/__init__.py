"""Repeatable benchmarks; see README.md here."""
