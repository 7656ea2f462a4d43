"""The secrets that a request's tools carry. An upstream may repeat them in its errors. Pure; no I/O."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MIN_SECRET_CHARS = 6
"""What is shorter is no secret, and would be found inside of ordinary words."""


def secrets_of(params: Mapping[str, Any]) -> Sequence[str]:
    """Every secret of the tools, the longest first, so that none is left over as a part of another.

    Of `Bearer abc`, the token alone is one as well: errors often quote just that.
    """
    found = {word for secret in _of_tools(params.get("tools")) for word in (secret, *secret.split())}
    return sorted((each for each in found if len(each) >= MIN_SECRET_CHARS), key=len, reverse=True)


def _of_tools(tools: Any) -> Iterator[str]:
    for tool in tools or ():
        yield from _texts([tool.get("authorization"), *(tool.get("headers") or {}).values()])
        yield from _of_url(tool.get("server_url"))
        yield from _of_container(tool.get("container"))
        yield from _of_container(tool.get("environment"))
        if tool.get("type") == "namespace":
            yield from _of_tools(tool.get("tools"))


def _of_url(url: Any) -> Iterator[str]:
    """User, password and query of a server's address, as they are and decoded."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return
    for text in (*parts.netloc.rpartition("@")[0].split(":"), parts.query):
        yield from (text, unquote(text))
    yield from (value for _, value in parse_qsl(parts.query))


def _of_container(container: Any) -> Iterator[str]:
    policy = container.get("network_policy") if isinstance(container, dict) else None
    yield from _texts([secret.get("value") for secret in (policy or {}).get("domain_secrets") or ()])


def _texts(values: Sequence[Any]) -> Iterator[str]:
    yield from (value for value in values if isinstance(value, str))
