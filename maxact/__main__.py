"""`python -m maxact` is `maxact`."""

from .cli import main

main()
