"""The stages on Ray, each a story: extract, train, tune, score, report; `__main__` is the command line."""
