"""Signals that stop a job, or save it, for the time of a with block.

What was ignored when we were started stays ignored: so nohup and shells want it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

__all__ = ["stop_signals"]

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_signals(
    stop: Callable[[int], None], save: Callable[[], None], wake_up_by: Callable[[int], None]
) -> Iterator[None]:
    """Let signals stop a job; outside the main thread Python has no way to.

    Parameters
    ----------
    stop : callable (signal number) -> None
        Called by signal handlers.
    save : callable () -> None
        Called by the handler of SIGUSR1.
    wake_up_by : callable (pipe) -> None
        Told of a pipe that any signal, and the end of any child, writes to.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wake, wake_by_signal = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(wake_by_signal, False)
    wake_up_by(wake)
    before = {}
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda got, _: stop(got))
    if signal.getsignal(signal.SIGUSR1) is not signal.SIG_IGN:
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda *_: save())
    # A child's end ends a wait as well.
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    fd_before = signal.set_wakeup_fd(wake_by_signal, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake_by_signal)
        os.close(wake)
