"""Every byte in and out: local paths and s3://, what their faults mean, media as local files."""
