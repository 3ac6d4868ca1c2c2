"""The commands, a file each: extract, train, tune, compare, score, report, check, submit."""
