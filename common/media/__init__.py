"""The domain model: codecs, tracks, frames and what is written in their bits."""
