"""Connections to where tenants point us: to checked addresses alone, and to the very ones that were checked.

Names are resolved here and nowhere else, and a socket is made for an address that its gate admits or not at
all. So a name that stands for something else a moment later changes nothing: nobody asks again. TLS still
asks for a certificate of the name.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from app.domain.addresses import Gate

Lookup = Callable[[str, int], Sequence[Any]]
"""What a name stands for, as `socket.getaddrinfo` says it."""


class Refused(OSError):
    """The target is no address that webhooks may be sent to."""


def getaddrinfo(name: str, port: int) -> Sequence[Any]:
    """What the system says; blocks."""
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)


class GuardedResolver(AbstractResolver):
    """Resolves each name in a thread of its own: a name server that is silent must hold up neither other
    lookups of the process, which share the few threads of its event loop, nor its end.
    """

    def __init__(self, gate: Gate, lookup: Lookup) -> None:
        self._gate = gate
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The admitted ones of the addresses that a name stands for.

        Raises:
            Refused: there are others alone.
            OSError: the name stands for nothing.
        """
        del family  # Of whichever family they are: each is checked.
        found = await self._found(host, port)
        admitted = [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
            if self._gate.admits(address[0])
        ]
        if not admitted:
            raise Refused(host)
        return admitted

    async def close(self) -> None:
        """Nothing is open."""

    def _found(self, host: str, port: int) -> "asyncio.Future[Sequence[Any]]":
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Sequence[Any]] = loop.create_future()

        def settle(found: Sequence[Any] | None, error: Exception | None) -> None:
            # Whoever asked may have run out of time.
            if not waiting.done():
                waiting.set_exception(error) if error else waiting.set_result(found or ())

        def look_up() -> None:
            try:
                found, error = self._lookup(host, port), None
            except Exception as raised:  # noqa: BLE001 - whoever asked gets it
                found, error = None, raised
            # Closed by now is a loop whose process is ending.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, found, error)

        Thread(target=look_up, name="webhook-name", daemon=True).start()
        return waiting


def open_session(
    gate: Gate, *, lookup: Lookup = getaddrinfo, trusted: ssl.SSLContext | None
) -> aiohttp.ClientSession:
    """A session that connects to nothing but what the gate admits. No connection outlives its request:
    endpoints are many, and what one has sent is never read as another's answer.

    Args:
        trusted: who may vouch for names; None is whom the system trusts.
    """

    def made(address: Any) -> socket.socket:
        """The wall: whatever was written in the URL or came of a name passes here before it is connected."""
        family, kind, protocol, _, place = address
        if not gate.admits(place[0]):
            raise Refused(place[0])
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        resolver=GuardedResolver(gate, lookup),
        use_dns_cache=False,
        socket_factory=made,
        force_close=True,
        limit=0,
        ssl=trusted or True,
    )
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
