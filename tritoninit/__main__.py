"""``python -m tritoninit``: the command line without installing anything."""

import sys

from tritoninit.cli import main

if __name__ == "__main__":
    sys.exit(main())
