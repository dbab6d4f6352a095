"""Run the program `pympipool` as `python -m pympipool`, for environments whose PATH does not contain its script."""

import sys

from pympipool.cli import main

if __name__ == "__main__":
    sys.exit(main())
