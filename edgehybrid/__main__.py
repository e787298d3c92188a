"""`python -m edgehybrid`."""

from edgehybrid.cli import main

main()
