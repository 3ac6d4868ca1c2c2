"""Media files → pictures and waveforms; every decoder's faults as one `MediaError`."""
