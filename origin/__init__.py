"""Takes live streams in, cuts them into records and broadcasts them to the edges."""
