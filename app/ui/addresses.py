"""Addresses: where the page is, where this server is seen from outside, and where to go after logging in."""

import re
from urllib.parse import quote, urlsplit

from fastapi import Request

ROOT = "/ui"
HOME = f"{ROOT}/responses"

# Visible ASCII without the backslash, which browsers read as a slash.
_OWN = re.compile(rf"{ROOT}/[!-\[\]-~]*")


def is_https(request: Request) -> bool:
    """Whether the browser speaks TLS, to us or to a proxy before us.

    Nothing is trusted to the proxy's word but this: a false one costs its sender a cookie.
    """
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return request.url.scheme == "https" or forwarded == "https"


def base_url(request: Request) -> str:
    """The API as the browser would reach it."""
    return f"{'https' if is_https(request) else 'http'}://{request.headers.get('host', 'localhost')}/v1"


def own(path: str | None) -> str:
    """The path, if it is one of this page's, else the first page."""
    return path if path and _OWN.fullmatch(path) else HOME


def login(request: Request) -> str:
    """The way to log in and come back to where this request was made from."""
    here = request.headers.get("hx-current-url")
    if here is None and request.method in {"GET", "HEAD"}:
        here = str(request.url)
    try:
        parts = urlsplit(here or "")
    except ValueError:
        parts = urlsplit(HOME)
    there = own(f"{parts.path}?{parts.query}" if parts.query else parts.path)
    return f"{ROOT}/login?next={quote(there, safe='/')}"


def response(name: str, more: str = "") -> str:
    return f"{HOME}/{name}{more}"


def conversation(name: str) -> str:
    return f"{ROOT}/conversations/{name}"
