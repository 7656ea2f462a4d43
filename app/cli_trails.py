"""Which audit trails a command is about, and what they are held against."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from app.domain.audit import SERVER, Checkpoint, parse_checkpoint, shown_checkpoint
from app.domain.tenancy import Caller
from app.settings import ConfigurationError
from app.store import audit, tenants
from app.store.db import Database

KEY_BYTES = 32
PAGE = 1000

Kept = Mapping[str | None, list[Checkpoint]]
"""Checkpoints that were kept elsewhere, by the tenants' names; None for the server's own."""


@dataclass(frozen=True, slots=True)
class Trail:
    """One trail, and what it is held against."""

    tenant_id: int
    tenant: str | None
    """The tenant's name; None for the server's own trail."""
    kept: list[Checkpoint] = field(default_factory=list[Checkpoint])

    @property
    def name(self) -> str:
        return "server" if self.tenant is None else f"tenant {self.tenant}"

    @property
    def caller(self) -> Caller:
        return Caller(self.tenant_id)


async def find(db: Database, tenant: str | None, *, is_server: bool, kept: Kept | None = None) -> list[Trail]:
    """The trail that is asked for, or else all that there are.

    Raises:
        ConfigurationError: there is no such tenant; or checkpoints were kept of a trail that is gone.
    """
    if tenant is not None and is_server:
        raise ConfigurationError("--tenant and --server exclude each other")
    async with db.begin_system() as tx:
        names, there = await tenants.names(tx), await audit.trails(tx)
    named = {
        each: None if each == SERVER else names.get(each, f"#{each}") for each in {*there, *names, SERVER}
    }
    kept = kept or {}
    if tenant is None and not is_server:
        named = {each: name for each, name in named.items() if each in there}
        if gone := kept.keys() - named.values():
            raise ConfigurationError(f"checkpoints were kept of trails that are not here: {_list(gone)}")
    else:
        named = {each: name for each, name in named.items() if name == tenant}
    if tenant is not None and not named:
        raise ConfigurationError(f"there is no tenant {tenant!r}")
    return [Trail(each, name, kept.get(name, [])) for each, name in sorted(named.items())]


async def checkpoints(db: Database, trail: Trail) -> list[dict[str, Any]]:
    """All checkpoints of a trail as `read_kept` takes them."""
    found, after = list[dict[str, Any]](), 0
    while True:
        async with db.read(trail.caller) as tx:
            page = await audit.checkpoints(tx, after=after, limit=PAGE)
        found += [{"tenant": trail.tenant, **shown_checkpoint(each)} for each in page]
        if len(page) < PAGE:
            return found
        after = page[-1].seq


def read_kept(path: Path, tenant: str | None, *, is_server: bool) -> Kept:
    """Checkpoints out of a file, as the command or the API has told them. The API does not say whose they
    are: then they are of the trail that is asked for.

    Raises:
        ConfigurationError: it holds something else, or it is not known whose they are.
    """
    kept = dict[str | None, list[Checkpoint]]()
    try:
        for each in orjson.loads(path.read_bytes())["data"]:
            if "tenant" not in each and tenant is None and not is_server:
                raise ConfigurationError(f"{path} does not say whose checkpoints these are: say --tenant")
            kept.setdefault(each.get("tenant", tenant), []).append(parse_checkpoint(each))
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path} holds no checkpoints: {error}") from None
    return kept


def public_keys(texts: Iterable[str]) -> frozenset[bytes]:
    """Keys out of hexadecimal.

    Raises:
        ConfigurationError: one is no key.
    """
    try:
        keys = frozenset(bytes.fromhex(text) for text in texts)
    except ValueError:
        keys = frozenset({b""})
    if any(len(key) != KEY_BYTES for key in keys):
        raise ConfigurationError(f"--public-key has to be {KEY_BYTES} bytes in hexadecimal")
    return keys


def _list(names: Iterable[str | None]) -> str:
    return ", ".join(sorted("the server" if name is None else repr(name) for name in names))
