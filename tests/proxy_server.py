"""A server whose traffic passes a bad network: `python proxy_server.py SCHEDULER FOLDER`.

A real server registers with the address of a ROUTER socket in front of it. What comes there is
passed on as FOLDER/faults.json says: a dict of probabilities for "drop", "duplicate" (again at
once, or later), "drop_reply", "duplicate_reply", and "mutate" (a stranger sends a damaged copy).
Counts of what was done, and the "version" of the faults, are kept in FOLDER/done.json.
"""

from __future__ import annotations

import collections
import json
import os
import random
import sys
from pathlib import Path

import zmq

from fastps import _core, _libzmq
from fastps.control import SocketControl, new_boot_id
from fastps.scheduler.messages import RegisterServer

FAULTS = ("drop", "duplicate", "drop_reply", "duplicate_reply", "mutate")


class Proxy:
    def __init__(self, scheduler: str, folder: Path) -> None:
        _libzmq.load()
        self.folder, self.random = folder, random.Random(7)
        self.faults = dict.fromkeys(FAULTS, 0.0)
        self.done: collections.Counter[str] = collections.Counter()
        boot_id = new_boot_id()
        self.server = _core.Server(boot_id, "tcp://127.0.0.1:*", 1)
        self.context = zmq.Context()
        self.front = self.context.socket(zmq.ROUTER)
        self.front.linger = 0
        port = self.front.bind_to_random_port("tcp://127.0.0.1")
        register = RegisterServer(boot_id.hex(), (f"tcp://127.0.0.1:{port}",), os.getpid())
        registered, blob = SocketControl(scheduler).call(register, 20.0)
        assert blob is not None
        self.server.start(registered.server_id, blob, scheduler, registered.rounds)
        self.stranger = self._dealer()
        self.backs: dict[bytes, zmq.Socket[bytes]] = {}
        self.sent: list[tuple[bytes, list[bytes]]] = []

    def _dealer(self) -> zmq.Socket[bytes]:
        dealer = self.context.socket(zmq.DEALER)
        dealer.linger = 0
        dealer.connect(self.server.endpoints[0])
        return dealer

    def happens(self, fault: str) -> bool:
        if self.random.random() >= self.faults[fault]:
            return False
        self.done[fault] += 1
        return True

    def run(self) -> None:
        while os.getppid() != 1:
            faults = json.loads((self.folder / "faults.json").read_text())
            self.faults = {name: faults.get(name, 0.0) for name in FAULTS}
            self.done["version"] = faults["version"]
            for _ in range(20):
                self.step()
            new = self.folder / "done.new"
            new.write_text(json.dumps(self.done))
            new.rename(self.folder / "done.json")

    def step(self) -> None:
        poller = zmq.Poller()
        for each in (self.front, self.stranger, *self.backs.values()):
            poller.register(each, zmq.POLLIN)
        ready = dict(poller.poll(5))
        if self.front in ready:
            client, *frames = self.front.recv_multipart()
            self.forward(client, frames)
        if self.stranger in ready:
            self.stranger.recv_multipart()
        for client, back in self.backs.items():
            if back in ready:
                frames = back.recv_multipart()
                if self.happens("drop_reply"):
                    continue
                self.front.send_multipart([client, *frames])
                if self.happens("duplicate_reply"):
                    self.front.send_multipart([client, *frames])

    def forward(self, client: bytes, frames: list[bytes]) -> None:
        self.done["messages"] += 1
        if client not in self.backs:
            self.backs[client] = self._dealer()
        self.sent = [*self.sent[-30:], (client, frames)]
        if not self.happens("drop"):
            self.backs[client].send_multipart(frames)
        if self.happens("duplicate"):
            self.backs[client].send_multipart(frames)
            old_client, old_frames = self.random.choice(self.sent)
            self.backs[old_client].send_multipart(old_frames)
        if self.happens("mutate"):
            for _ in range(5):
                self.stranger.send_multipart([self.mutated(each) for each in frames])
            if self.random.random() < 0.05:
                self.stranger.close()
                self.stranger = self._dealer()

    def mutated(self, frame: bytes) -> bytes:
        damaged = bytearray(frame or b"x")
        for _ in range(self.random.randint(1, 4)):
            # Most of a long frame is values; the structure is at its beginning.
            place = self.random.randrange(min(len(damaged), self.random.choice([40, 200, 10**9])))
            damaged[place] = self.random.choice([0, 255, 128, self.random.randrange(256)])
        if self.random.random() < 0.3:
            del damaged[self.random.randrange(len(damaged)) :]
        return bytes(damaged)


if __name__ == "__main__":
    Proxy(sys.argv[1], Path(sys.argv[2])).run()
