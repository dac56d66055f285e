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
    """Return the requirements of the named groups, and of extras that these name in turn."""
    data = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    groups = {
        "build": data["build-system"]["requires"],
        "run": data["project"]["dependencies"],
        **data["project"]["optional-dependencies"],
    }
    found: list[str] = []
    for name in names:
        for line in groups[name]:
            if line.startswith("fastps["):
                found += requirements(line.removeprefix("fastps[").removesuffix("]").split(","))
            else:
                found.append(line)
    return list(dict.fromkeys(found))


print("\n".join(requirements(sys.argv[1:])))
