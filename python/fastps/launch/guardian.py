"""A program of its own: kills what a launcher that was killed leaves behind.

The kernel ends a launcher's children with it, but not their children. This process is told on its
standard input, in lines ``+PID`` and ``-PID``, which process groups there are. The input ends when
the launcher does, however that ended; the groups that are left are then killed.

It is run by its path, without fastps and with little of Python, and starts in some 10 ms.
"""

import os
import signal
import sys


def main() -> None:
    """Guard until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    with open(0, "rb", buffering=0, closefd=False) as told:  # a descriptor
        for line in told:
            if line[:1] == b"+":
                groups.add(int(line[1:]))
            else:
                groups.discard(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            continue
    # pathlib and shutil would double the time to start.
    for path in sys.argv[1:]:
        try:
            if os.path.isdir(path):  # noqa: PTH112
                for name in os.listdir(path):  # noqa: PTH208
                    os.unlink(f"{path}/{name}")  # noqa: PTH108
                os.rmdir(path)  # noqa: PTH106
            else:
                os.unlink(path)  # noqa: PTH108
        except OSError:
            continue


if __name__ == "__main__":
    main()
