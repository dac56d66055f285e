"""Print what pyproject.toml requires, one requirement per line, for pip to install.

python .ci/requirements.py build|run|EXTRA ...    build: to build it; run: to run it
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib


def requirements(names: list[str]) -> list[str]:
    """Return the requirements of the named groups; fastps itself is not one of them."""
    data = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    groups = {
        "build": data["build-system"]["requires"],
        "run": data["project"]["dependencies"],
        **data["project"]["optional-dependencies"],
    }
    return [line for name in names for line in groups[name] if not line.startswith("fastps[")]


print("\n".join(requirements(sys.argv[1:])))
