"""`python -m nodebudget` is `nodebudget`."""

from nodebudget.cli import main

main(prog_name="nodebudget")
