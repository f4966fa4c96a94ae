"""The connections of the server process: how many there may be, and how long one may keep it waiting.

uvicorn 0.54 waits for ever for a request that does not come, or for the rest of one, and asyncio's accept fills the log
when there are no file descriptors left. So some are kept back: when the others are used up, the connection that has
been waited for the longest gives way to a new one. Whoever sends a request is never waited for.
"""

import asyncio
import ipaddress
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from todochat.dialects.sse import STALL
from todochat.logs import Sparing

FIRST = 10.0  # seconds for a request to come, with all of its headers
BODY = 30.0  # seconds for its body
MOST = 10_000  # connections, however many descriptors there are: each costs some memory
PER_ADDRESS = 100  # connections, where nothing else is set
# Where a proxy is, as a rule: on this machine, or in its own network.
PRIVATE = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
BATCH = 32  # connections that are accepted at a time, all before any of them is counted: fewer than what is kept back


def raise_descriptor_limit() -> int:
    """Raise the process's soft limit of file descriptors to the hard one; return how many connections that allows."""
    if sys.platform == "win32":
        return MOST
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return MOST
    return min(MOST, hard - max(4 * BATCH, hard // 8))  # the rest is for the database, the models, and what is accepted


class Connections:
    """All connections of a server: `most` in all, and `per_address` (0: any number) of each one that is not trusted.

    With None for `per_address` it is `PER_ADDRESS`, and `PRIVATE` is trusted as well.
    """

    def __init__(self, most: int, per_address: int | None, trusted: Sequence[str]) -> None:
        self.most = most
        self.count = 0
        self.refused = 0
        self.waiting: dict[Guarded, None] = {}  # those that are to send something, the longest waited for first
        self._per_address = PER_ADDRESS if per_address is None else per_address
        networks = [*trusted, *PRIVATE] if per_address is None else trusted
        self._trusted = [ipaddress.ip_network(network) for network in networks]
        self._by_network: Counter[str] = Counter()
        self._log = Sparing()

    def admit(self, network: str) -> bool:
        """Count a new connection; return whether it may stay."""
        self.count += 1
        self._by_network[network] += 1
        if network and self._per_address and self._by_network[network] > self._per_address:
            return self._refuse("an address has too many connections")
        if self.count > self.most:
            if not self.waiting:
                return self._refuse("there are too many connections")
            next(iter(self.waiting)).drop("there are too many connections")
        return True

    def _refuse(self, why: str) -> bool:
        self.note(why)
        return False

    def note(self, why: str) -> None:
        """Count a connection that is closed, and tell the log, but not each time."""
        self.refused += 1
        self._log.note(logging.WARNING, "a connection was closed", why)

    def forget(self, network: str) -> None:
        """Count a connection no longer."""
        self.count -= 1
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def network_of(self, client: tuple[str, int] | None) -> str:
        """Return what connections are counted by: an address, or a network of IPv6; empty for one that is trusted."""
        if client is None:  # a socket of this machine's own kind
            return ""
        address = ipaddress.ip_address(client[0].partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self._trusted):
            return ""
        return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


class Guarded(H11Protocol):
    """A connection that is closed if a request, or its body, does not come in time."""

    def __init__(self, connections_of_all: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all = connections_of_all
        self._network = ""
        self._waits_for: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._network = self._all.network_of(self.client)
        if self._all.admit(self._network):
            self._look()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._wait_for(None)
        self._all.forget(self._network)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """See `H11Protocol`."""
        super().handle_events()
        self._look()

    def on_response_complete(self) -> None:
        """See `H11Protocol`."""
        super().on_response_complete()
        self._look()

    def _look(self) -> None:
        """See what the client is to send next, if anything."""
        if self.transport.is_closing():
            self._wait_for(None)
        elif self.cycle is None or self.cycle.response_complete:
            self._wait_for("request")
        else:
            self._wait_for("body" if self.cycle.more_body else None)

    def _wait_for(self, what: str | None) -> None:
        if what == self._waits_for:
            return  # what comes in small pieces has no more time for it
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._all.waiting.pop(self, None)
        self._waits_for = what
        if what is not None:
            self._all.waiting[self] = None
            self._timer = self.loop.call_later(FIRST if what == "request" else BODY, self._too_late, what)

    def _too_late(self, what: str, unread: int = 0) -> None:
        """Close the connection, unless its client still takes what it was sent: that may need longer."""
        left = self.transport.get_write_buffer_size() if what == "request" else 0
        if left and left != unread:
            self._timer = self.loop.call_later(STALL, self._too_late, what, left)
        else:
            self.drop(f"no {what} came")

    def drop(self, why: str) -> None:
        """Close the connection at once."""
        idle = self.cycle is not None and self._waits_for == "request"  # it has had its answer
        if not idle:
            self._all.note(why)
        self._wait_for(None)
        self.transport.abort()
