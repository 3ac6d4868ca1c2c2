"""Samples in: a manifest, as partitions that never change for the same manifest."""
