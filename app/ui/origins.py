"""What changes something must have been sent from our own page: no other site may use a reader's cookie."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers

from app.errors import Forbidden

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing here."""


def check(method: str, headers: Headers) -> None:
    """Let only our own forms through.

    Browsers say `Sec-Fetch-Site` where the connection is safe from listeners, and `Origin` always.

    Raises:
        Forbidden: it came from elsewhere, or does not say where from.
    """
    if method not in SAFE and not _is_own(headers):
        raise Forbidden("This was not sent from a page of this server.", code="foreign_origin")


def _is_own(headers: Headers) -> bool:
    if (site := headers.get("sec-fetch-site")) is not None:
        return site == "same-origin"
    origin, host = headers.get("origin", ""), headers.get("host", "")
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
