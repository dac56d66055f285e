"""What the processes of a job run: the roles, and what was given as a script."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fastps.errors import ConfigError

__all__ = ["FASTPS_COMMAND", "program_command", "python_command"]

# As `python -m fastps`, but without the current folder in the module path: a secrets.py or numpy.py
# there is none of our business. (Python 3.10 has no -P.)
_MAIN = (
    "import sys; sys.path[:1] == [''] and sys.path.pop(0); "
    "from fastps.cli.main import main; sys.exit(main())"
)
FASTPS_COMMAND = (sys.executable, "-c", _MAIN)

SHELL_SUFFIXES = (".sh", ".bash", ".zsh", ".ksh", ".fish")
NO_PYTHON = "it is run as it is with --no-python"


def python_command(command: Sequence[str]) -> tuple[str, ...]:
    """Return what runs a Python script, a folder with __main__.py or ``-m module``.

    Raises
    ------
    ConfigError
        There is no such script, or it is none of Python.
    """
    if command[0] == "-m":
        if len(command) < 2:
            raise ConfigError("-m needs a module, for example: -m package.train")
        if command[1] == "fastps":
            return (*FASTPS_COMMAND, *command[2:])
        return (sys.executable, *command)
    _check_script(Path(command[0]))
    name = f"./{command[0]}" if command[0].startswith("-") else command[0]
    return (sys.executable, name, *command[1:])


def program_command(command: Sequence[str]) -> tuple[str, ...]:
    """Return what runs a program or an executable script, here or on the PATH.

    Raises
    ------
    ConfigError
        There is none of that name, or it may not be run.
    """
    name = command[0]
    if name == "-m":
        raise ConfigError("-m runs a Python module: leave --no-python out, or name a program")
    found = shutil.which(name) or shutil.which(os.path.join(".", name))  # noqa: PTH118
    if found is not None:
        return (str(Path(found).absolute()), *command[1:])
    if not Path(name).exists():
        raise ConfigError(f"the program {name!r} does not exist, neither here nor on the PATH")
    raise ConfigError(f"{name!r} cannot be run: it needs to be a file with permission (chmod +x)")


def _check_script(script: Path) -> None:
    if not script.exists():
        raise ConfigError(f"the script {str(script)!r} does not exist; a module is run with -m")
    if script.is_dir():
        if not (script / "__main__.py").is_file():
            raise ConfigError(
                f"the script {str(script)!r} is a folder without __main__.py; name a script"
            )
        return
    if not script.is_file():
        raise ConfigError(
            f"the script {str(script)!r} is no regular file, which each worker could read; "
            "name a file"
        )
    try:
        with script.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise ConfigError(
            f"the script {str(script)!r} cannot be read: {error.strerror or error}"
        ) from None
    first = head.partition(b"\n")[0].decode(errors="replace").strip()
    if head.startswith(b"\x7fELF"):
        raise ConfigError(f"the script {str(script)!r} is a program, not Python; {NO_PYTHON}")
    is_python = script.suffix in (".py", ".pyc", ".pyw", ".pyz") or "python" in first
    if (first.startswith("#!") and not is_python) or script.suffix in SHELL_SUFFIXES:
        shown = f" ({first:.100})" if first.startswith("#!") else ""
        raise ConfigError(f"the script {str(script)!r} is not Python{shown}; {NO_PYTHON}")
