"""Frames, sounds and texts to vectors: a kind of feature a file."""
