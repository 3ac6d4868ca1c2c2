"""Media bytes → frames, waveforms; every decoder's faults as one `MediaError`."""
