"""`python -m pympipool`: the program `pympipool`, also where its script is not in PATH."""

import sys

from pympipool.cli import main

if __name__ == "__main__":
    sys.exit(main())
