"""The descriptors 0, 1 and 2, which may be closed when a command starts."""

from __future__ import annotations

import os
import sys

__all__ = ["open_standard_files"]


def open_standard_files() -> None:
    """Let what is closed of standard input, output and error be the null device.

    Otherwise the next files, pipes and sockets get these numbers: they would be printed to, and
    children would lose them.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            file = open(fd, "r" if fd == 0 else "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, file)
