"""What ships with the package: the demo's clips and config, the starter config."""
