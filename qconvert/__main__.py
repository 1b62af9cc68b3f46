"""`python -m qconvert`."""

from qconvert.cli.app import main

main()
