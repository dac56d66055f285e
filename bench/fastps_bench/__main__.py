"""``python -m fastps_bench``."""

import sys

from fastps_bench.main import main

if __name__ == "__main__":
    sys.exit(main())
