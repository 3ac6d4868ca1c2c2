"""`python -m mmray`: the command line."""

from mmray.cli import main

main()
