"""One attempt at a webhook: signed as Standard Webhooks say, sent once, and judged by its status alone."""

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import version

import aiohttp
from standardwebhooks import Webhook

from app.domain.addresses import Gate, Network
from app.domain.webhooks import LONGEST_ASKED_SECONDS, Event, Outcome
from app.providers.retries import retry_after_seconds
from app.webhooks.guarded_sockets import Lookup, Refused, getaddrinfo, open_session

BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

AGENT = f"holdfast/{version('holdfast')}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator decides of sending."""

    allowed_networks: Sequence[Network] = ()
    timeout_seconds: float = 15.0


class Sender:
    """Sends from one process. Opens nothing before it is used for the first time."""

    def __init__(
        self, rules: Rules, *, lookup: Lookup = getaddrinfo, trusted: ssl.SSLContext | None = None
    ) -> None:
        """Take what tests stand in for: the name servers, and who vouches for names."""
        self.rules = rules
        self._lookup = lookup
        self._trusted = trusted
        self._timeout = aiohttp.ClientTimeout(total=rules.timeout_seconds)
        self._sessions = dict[bool, aiohttp.ClientSession]()

    async def send(self, url: str, event: Event, secrets: Sequence[str]) -> Outcome:
        """Deliver an event once. Whatever the other side does, this ends in time, and raises nothing.

        Redirects are not followed: any other status than 2xx is a failure (behaviour 147). Of the answer
        nothing but its status and, where it has too much to do, `Retry-After` is looked at.
        """
        try:
            async with self._session(url).post(
                url,
                data=event.body,
                headers=signed_headers(event, secrets, int(time.time())),
                allow_redirects=False,
                timeout=self._timeout,
            ) as answer:
                status, asked = answer.status, _asked_seconds(answer)
                answer.close()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(_reason(error))
        return Outcome(_meaning(status), status, asked_seconds=asked)

    async def close(self) -> None:
        """Give up connections. Lookups under way end by themselves."""
        for session in self._sessions.values():
            await session.close()

    def _session(self, url: str) -> aiohttp.ClientSession:
        """What is not encrypted goes to allowed networks alone."""
        is_open = url.lower().startswith("https://")
        if is_open not in self._sessions:
            gate = Gate(self.rules.allowed_networks, is_open=is_open)
            self._sessions[is_open] = open_session(gate, lookup=self._lookup, trusted=self._trusted)
        return self._sessions[is_open]


def signed_headers(event: Event, secrets: Sequence[str], now: int) -> dict[str, str]:
    """The headers of an attempt: the event's id, when it is sent, and a signature with each secret."""
    at = datetime.fromtimestamp(now, UTC)
    signatures = [Webhook(secret).sign(event.name, at, event.body.decode()) for secret in secrets]
    return {
        "content-type": "application/json",
        "user-agent": AGENT,
        "webhook-id": event.name,
        "webhook-timestamp": str(now),
        "webhook-signature": " ".join(signatures),
    }


def _asked_seconds(answer: aiohttp.ClientResponse) -> float | None:
    asked = retry_after_seconds(answer.headers) if answer.status in BUSY else None
    return None if asked is None else min(asked, LONGEST_ASKED_SECONDS)


def _meaning(status: int) -> str:
    if 200 <= status < 300:
        return "delivered"
    return "redirected" if 300 <= status < 400 else "refused"


def _reason(error: Exception) -> str:
    """A word for what went wrong; what the other side said is not in it."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, Refused):
            return "address_not_allowed"
        cause = cause.__cause__
    known = {
        TimeoutError: "timed_out",
        aiohttp.ClientConnectorDNSError: "name_not_found",
        aiohttp.ClientConnectorCertificateError: "certificate_invalid",
        aiohttp.ClientSSLError: "tls_failed",
        aiohttp.ClientConnectorError: "unreachable",
        aiohttp.InvalidURL: "url_invalid",
    }
    return next((reason for kind, reason in known.items() if isinstance(error, kind)), "connection_broken")
