"""The secrets of a request's tools: where they are, and the request with and without them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from app.domain.tools import CONTAINERS, REDACTED, domain_secrets, public_url


class Secret(NamedTuple):
    """One secret and its place among the parameters, as JSON keys and indexes."""

    path: tuple[str | int, ...]
    value: Any

    @property
    def place(self) -> str:
        """The place as an error names it."""
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return "".join(parts).removeprefix(".")


def secrets_in(params: Mapping[str, Any]) -> list[Secret]:
    """All that the echo does not show, in the order of the tools."""
    return [secret for secret, _ in _of_tools(params.get("tools") or (), ("tools",))]


def without_secrets(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters as they may be stored. Their echo is the same, byte for byte."""
    found = list(_of_tools(params.get("tools") or (), ("tools",)))
    return _put(params, [Secret(secret.path, stand_in) for secret, stand_in in found])


def with_secrets(params: Mapping[str, Any], secrets: Sequence[Secret]) -> Mapping[str, Any]:
    """What `without_secrets` was given; the parameters themselves are left as they are."""
    return _put(params, secrets)


def _put(params: Mapping[str, Any], values: Sequence[Secret]) -> Mapping[str, Any]:
    if not values:
        return params
    changed = {**params, "tools": orjson.loads(orjson.dumps(params["tools"]))}
    for path, value in values:
        holder: Any = changed
        for part in path[:-1]:
            holder = holder[part]
        holder[path[-1]] = value
    return changed


def _of_tools(
    tools: Sequence[Mapping[str, Any]], path: tuple[str | int, ...]
) -> Iterator[tuple[Secret, str | None]]:
    """Each secret, with what stands in its place so that the order of keys stays as it was."""
    for index, tool in enumerate(tools):
        here = (*path, index)
        if tool["type"] == "namespace":
            yield from _of_tools(tool["tools"], (*here, "tools"))
        elif tool["type"] == "mcp":
            yield from _of_mcp(tool, here)
        elif key := CONTAINERS.get(tool["type"]):
            for number, each in enumerate(domain_secrets(tool.get(key))):
                place = (*here, key, "network_policy", "domain_secrets", number, "value")
                yield Secret(place, each.get("value")), REDACTED


def _of_mcp(tool: Mapping[str, Any], here: tuple[str | int, ...]) -> Iterator[tuple[Secret, str | None]]:
    for key, stand_in in (("authorization", REDACTED), ("headers", None)):
        if value := tool.get(key):
            yield Secret((*here, key), value), stand_in
    if (url := tool.get("server_url")) and REDACTED in (public := public_url(url)):
        yield Secret((*here, "server_url"), url), public
