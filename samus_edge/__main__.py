"""`python -m samus_edge` is `samus-edge`."""

import sys

from samus_edge.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
