"""Tables as Parquet part files: schemas, part files with notes in their footers, identity, accounts."""
