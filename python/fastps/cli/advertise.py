"""Which addresses a role publishes: those that others can connect to, not what it is bound to."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import socket
from collections.abc import Sequence

from fastps.arguments import PORT_MAX
from fastps.errors import ConfigError

__all__ = ["add_advertise", "checked_bind", "published"]

log = logging.getLogger("fastps")

# An address of documentation: connecting a datagram socket to it sends nothing, but tells which of
# our addresses the way to others begins at.
SOMEWHERE = ("192.0.2.1", 9)


def add_advertise(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--advertise``."""
    parser.add_argument(
        "--advertise",
        type=_host,
        metavar="HOST",
        help="the name or address of this machine that others connect to (default: where it "
        "listens; when that is all addresses, 0.0.0.0 or ::, the one on the way to the others)",
    )


def checked_bind(option: str, address: str) -> str:
    """Return an address to listen at: ``ipc://PATH`` or ``tcp://HOST:PORT``, PORT 0 or * too.

    Raises
    ------
    ConfigError
        It is none; the message names the option.
    """
    needed = "needed is one such as tcp://127.0.0.1:5000; port * is a free one"
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return address
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://") or not colon or not host:
        raise ConfigError(f"{option} is {address!r:.200}, {needed}")
    if port != "*" and not (port.isascii() and port.isdigit() and int(port[:6]) <= PORT_MAX):
        raise ConfigError(
            f"{option} is {address!r:.200}: its port is {port!r:.50}, from 0 to {PORT_MAX} may be; "
            f"{needed}"
        )
    return address


def published(
    endpoints: Sequence[str], advertise: str | None, others: str | None = None
) -> tuple[str, ...]:
    """Return the addresses to publish for those that are listened at.

    Parameters
    ----------
    endpoints : sequence of str
        What the sockets are bound to, with their ports.
    advertise : str, optional
        The host that others know; None: found out where all addresses are listened at.
    others : str, optional
        Of somebody that others connect to as well: the scheduler.
    """
    if advertise is None and not any(_is_wildcard(each) for each in endpoints):
        return tuple(endpoints)
    host = advertise
    if host is None:
        host = _own_address(others)
        if ipaddress.ip_address(host).is_loopback:
            log.warning(
                "%s listens at all addresses and is known to others as %s, which only this machine "
                "can reach; give --advertise HOST for others",
                endpoints[0],
                host,
            )
    shown = f"[{host}]" if ":" in host else host
    return tuple(
        f"tcp://{shown}:{each.rpartition(':')[2]}"
        if each.startswith("tcp://") and (advertise is not None or _is_wildcard(each))
        else each
        for each in endpoints
    )


def _is_wildcard(endpoint: str) -> bool:
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if not endpoint.startswith("tcp://"):
        return False
    try:
        return host == "*" or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _own_address(others: str | None) -> str:
    """Return the address of this machine on the way to others."""
    target = SOMEWHERE
    if others is not None and others.startswith("tcp://"):
        host, _, port = others.removeprefix("tcp://").rpartition(":")
        target = (host.strip("[]"), int(port))
    try:
        found = socket.getaddrinfo(*target, type=socket.SOCK_DGRAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as way:
                way.connect(address)
                own = str(way.getsockname()[0]).partition("%")[0]
            if not ipaddress.ip_address(own).is_unspecified:
                return own
    except OSError:
        pass
    return "127.0.0.1"


def _host(text: str) -> str:
    host = text.strip("[]")
    is_number = ":" in host or host.replace(".", "").isdigit()
    try:
        if is_number and ipaddress.ip_address(host).is_unspecified:
            raise ValueError
    except ValueError:
        host = ""
    if not host or "/" in host or any(each.isspace() for each in host) or host == "*":
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name or address of a machine, for example node7 or 10.0.0.7; "
            "the port is that of the address it listens at"
        )
    return host
