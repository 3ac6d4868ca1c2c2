"""Frames, waveforms, words → feature vectors over time."""
