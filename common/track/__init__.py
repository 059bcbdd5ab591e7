"""The track-record format: append-only pages of records in shared memory."""
