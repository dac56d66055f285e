"""Network namespaces joined by a bridge, in which links are cut one way at a time.

A link is cut by giving the receiver a hardware address that nobody has: what is sent to it leaves,
and never arrives. So each direction is cut by itself, as a firewall's DROP does, with nothing but
the command ``ip``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable

NOBODY = "02:00:00:00:00:00"
HOST = "host"  # the namespace that the test itself is in


class NotPermitted(Exception):
    """Network namespaces cannot be made here."""


class Network:
    """Hosts by name. A context manager that removes all of it.

    Parameters
    ----------
    names : iterable of str
        Of the hosts; the test's own process is `HOST`.

    Raises
    ------
    NotPermitted
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._mark = f"fps{os.getpid() % 100_000:x}"
        self._bridge = f"{self._mark}b"
        self._subnet = f"10.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}"
        self._hosts = [HOST, *names]
        self._macs: dict[str, str] = {}
        try:
            self._make()
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            said = getattr(error, "stderr", None) or str(error)
            raise NotPermitted(f"no network namespaces: {said.strip()}") from error

    def address(self, host: str) -> str:
        return f"{self._subnet}.{1 + self._hosts.index(host)}"

    def command(self, host: str) -> list[str]:
        """What goes before a command that is to run on a host."""
        return [] if host == HOST else ["ip", "netns", "exec", self._namespace(host)]

    def cut(self, sender: str, receiver: str) -> None:
        """Drop all that one host sends to another, from now on."""
        self._send_to(sender, receiver, NOBODY)

    def mend(self, sender: str, receiver: str) -> None:
        self._send_to(sender, receiver, self._macs[receiver])

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for host in self._hosts[1:]:
            _try_ip("netns", "del", self._namespace(host))
        for number in range(1, len(self._hosts)):  # a namespace may take its time to vanish
            _try_ip("link", "del", f"{self._mark}o{number}")
        _try_ip("link", "del", self._bridge)

    def _make(self) -> None:
        # With an address of its own a bridge keeps it when hosts join.
        _ip("link", "add", self._bridge, "address", self._mac(0), "type", "bridge")
        _ip("addr", "add", f"{self.address(HOST)}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, host in enumerate(self._hosts):
            if host == HOST:
                self._macs[host] = self._mac(number)
                continue
            name, inner = self._namespace(host), f"{self._mark}i{number}"
            mac = self._mac(number)
            outer = f"{self._mark}o{number}"
            _ip("netns", "add", name)
            _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "address", mac)
            _ip("link", "set", inner, "netns", name)
            _ip("link", "set", outer, "master", self._bridge, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", inner, "name", "eth0")
            _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            self._macs[host] = mac
        for sender in self._hosts:
            for receiver in self._hosts:
                if sender != receiver:
                    self.mend(sender, receiver)

    def _send_to(self, sender: str, receiver: str, mac: str) -> None:
        where = [] if sender == HOST else ["-n", self._namespace(sender)]
        device = self._bridge if sender == HOST else "eth0"
        place = (self.address(receiver), "lladdr", mac, "dev", device, "nud", "permanent")
        _ip(*where, "neigh", "replace", *place)

    def _mac(self, number: int) -> str:
        return f"02:46:50:53:{os.getpid() % 256:02x}:{number:02x}"

    def _namespace(self, host: str) -> str:
        return f"{self._mark}-{host}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


def _try_ip(*words: str) -> None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        _ip(*words)
