"""``python -m fastps``: the same as the command ``fastps``."""

import sys

from fastps.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
