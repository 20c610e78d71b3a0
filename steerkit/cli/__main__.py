"""`python -m steerkit.cli` is the same as `steerkit`."""

from steerkit.cli import main

main()
