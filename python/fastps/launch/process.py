"""Child processes that cannot outlive their parent.

Each has a session and a process group of its own, so that its own children are found when it is
stopped, and asks the kernel to be killed when the parent dies (Linux, ``PR_SET_PDEATHSIG``). For
the children of children there is the guardian.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastps.launch import guardian

__all__ = ["ChildProcess", "Guardian", "describe_exit"]

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class ChildProcess:
    """One child. One thread uses it: the one that made it, which must outlive the child.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    environment : mapping of str to str
        All of its environment.
    pass_fds : sequence of int
        File descriptors that it inherits besides 0, 1 and 2. Its standard input is empty.

    is_role : bool, default False
        Whether it is one of ours, which SIGTERM ends even if we are to ignore it.

    Attributes
    ----------
    pid : int
        Of the process, and of its process group.
    stdout, stderr : int
        Pipes to read; whoever takes them closes them.

    Raises
    ------
    OSError
        The program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        is_role: bool = False,
    ) -> None:
        parent = os.getpid()

        def die_with_parent() -> None:
            if is_role:  # we end it by this one, whoever told us to ignore it
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                # The parent died before the kernel knew of our wish.
                os.kill(os.getpid(), signal.SIGKILL)

        stdout, stdout_of_child = os.pipe()
        stderr, stderr_of_child = os.pipe()
        try:
            self._popen = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stdout_of_child,
                stderr=stderr_of_child,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # it only makes system calls
            )
        except BaseException:
            os.close(stdout)
            os.close(stderr)
            raise
        finally:
            os.close(stdout_of_child)
            os.close(stderr_of_child)
        self.pid = self._popen.pid
        self.stdout = stdout
        self.stderr = stderr

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and its own children. Nothing happens once it was reaped."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def reap(self) -> int | None:
        """Return the exit code if the process has ended, else None; negative: minus the signal.

        What is left of its process group is killed first, while the number is still ours.
        """
        if self._popen.returncode is None:
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, self.pid, flags) is None:
                return None
            self.signal_group(signal.SIGKILL)
            self._popen.wait()
        return self._popen.returncode


def describe_exit(code: int) -> str:
    """Return an exit code in words; negative: minus the signal."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"was killed by signal {-code} ({name})"


class Guardian:
    """Ends the process groups of children whose parent was killed: see guardian.py.

    Parameters
    ----------
    files : sequence of Path
        Removed as well when the parent was killed: files, and folders of files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        program = str(Path(guardian.__file__))
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", program, *map(str, files)],
            stdin=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._popen.pid

    def add(self, process: ChildProcess) -> None:
        """Guard a child's group."""
        self._say(f"+{process.pid}\n")

    def remove(self, process: ChildProcess) -> None:
        """Guard a child's group no more: it was reaped."""
        self._say(f"-{process.pid}\n")

    def close(self) -> None:
        """End. Groups that are still guarded are killed."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait()

    def _say(self, line: str) -> None:
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.write(line.encode())
