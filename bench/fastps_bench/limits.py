"""Limits of the machine, measured in the same run as what is compared with them."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import zmq

from fastps_bench.timing import Figure, percentile

__all__ = ["memcpy_gb_s", "zmq_round_trip_us"]

COPY_BYTES = 256 << 20  # larger than any cache
MESSAGE = bytes(16)
WAIT_MS = 10_000

# A process that sends every message back, and ends when none comes any more.
ECHO = f"""
import zmq
socket = zmq.Context().socket(zmq.ROUTER)
socket.RCVTIMEO = {WAIT_MS}
print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
try:
    while True:
        socket.send_multipart(socket.recv_multipart())
except zmq.Again:
    pass
"""


def memcpy_gb_s(repeats: int, n_bytes: int = COPY_BYTES) -> Figure:
    """Return how many gigabytes one thread copies in a second, from memory to memory."""
    source = np.ones(n_bytes, np.uint8)
    target = np.ones(n_bytes, np.uint8)  # ones: pages of zeros would come only when copied to
    figures = []
    for _ in range(repeats):
        start = time.perf_counter()
        np.copyto(target, source)
        figures.append(n_bytes / (time.perf_counter() - start) / 1e9)
    return Figure.of(figures)


def zmq_round_trip_us(repeats: int, n_round_trips: int) -> Figure:
    """Return the median time of a bare DEALER-ROUTER round trip over tcp, in microseconds.

    Between two processes that do nothing else: a request for one key cannot be faster.
    """
    with subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE) as echo:
        try:
            assert echo.stdout is not None
            port = int(echo.stdout.readline())
            with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
                socket.setsockopt(zmq.LINGER, 0)
                socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
                socket.connect(f"tcp://127.0.0.1:{port}")
                _round_trips(socket, n_round_trips)  # warms up
                times = [_round_trips(socket, n_round_trips) for _ in range(repeats)]
        finally:
            echo.kill()
    return Figure.of([percentile(microseconds, 50) for microseconds in times])


def _round_trips(socket: zmq.Socket[bytes], n_round_trips: int) -> list[float]:
    microseconds = []
    for _ in range(n_round_trips):
        start = time.perf_counter()
        socket.send(MESSAGE)
        socket.recv()
        microseconds.append((time.perf_counter() - start) * 1e6)
    return microseconds
