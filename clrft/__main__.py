"""``python -m clrft``: the command line, as launchers of several processes start it."""

import sys

from clrft.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
