"""Reaping what others left: as process 1 of a container nobody else does it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection

__all__ = ["adopts_orphans", "reap_orphans"]

PR_GET_CHILD_SUBREAPER = 37


def adopts_orphans() -> bool:
    """Return whether the children of processes that end become children of this one."""
    if os.getpid() == 1:
        return True
    answer = ctypes.c_int(0)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def reap_orphans(own: Collection[int]) -> None:
    """Reap children that have ended, up to the first of `own`, whose codes somebody waits for."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid in own:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)
        except ChildProcessError:
            return
