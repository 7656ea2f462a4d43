"""`holdfast key`: who may come in. And whether a server without keys may listen where others reach it."""

import ipaddress
import socket
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from app import cli_database, cli_tables, ids
from app.cli_options import Config, StateDir
from app.domain.audit import Action
from app.domain.dialects import Dialect
from app.domain.keys import Key, mint
from app.domain.tenancy import Scope
from app.settings import ConfigurationError
from app.store import keys, outbox, tenants
from app.store.db import SystemTx
from app.store.keys import ListedKey

cli = typer.Typer(
    help="Create, list and revoke API keys. They work on `database_url`, or else on the database of a "
    "running `holdfast serve`.\n\nOnce there is a key, every request under /v1 needs one, for good.",
    no_args_is_help=True,
)


class ScopeName(StrEnum):
    """As the command line has them."""

    READ = "read"
    WRITE = "write"
    AUDIT = "audit"
    ADMIN = "admin"


@cli.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose key it is; made where there is none of that name.")],
    scope: Annotated[
        list[ScopeName] | None,
        typer.Option(help="What it may do: write implies read, audit reads alone, admin is all. Repeatable."),
    ] = None,
    expires: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, max=36500, help="Never, where not given.")
    ] = None,
    name: Annotated[str, typer.Option(help="What it is for, for the list.")] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", help="Models that the tenant may name, with all its keys; '*' is all. Repeatable."
        ),
    ] = None,
    dialect: Annotated[
        Dialect | None,
        typer.Option(help="How it is answered; where not given, as the setting `dialect` says."),
    ] = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Create a key and print it. It is shown this once: only its hash is kept.

    A tenant `default` has what was made before there were keys.
    """
    for option, text in (
        ("--tenant", tenant),
        ("--name", name),
        *(("--model", glob) for glob in model or ()),
    ):
        _check_text(option, text, may_be_empty=option == "--name")
    key, scopes = mint(), _scopes(scope or [ScopeName.WRITE])
    lifetime = None if expires is None else timedelta(days=expires)

    async def work(tx: SystemTx) -> None:
        tenant_id = await _tenant(tx, tenant, model)
        await keys.create(
            tx, key, tenant_id=tenant_id, scopes=scopes, name=name, lifetime=lifetime, dialect=dialect
        )
        told = {"name": name, "scopes": scopes.words, "expires_days": expires}
        told |= {"dialect": dialect} if dialect else {}
        await outbox.note(tx.of(tenant_id), Action.KEY_CREATED, key.id, told)

    cli_database.transact(cli_database.find(config, state_dir), work)
    _show(key, tenant, scopes, expires)


async def _tenant(tx: SystemTx, name: str, models: list[str] | None) -> int:
    """The tenant of this name, made if need be, with the models that it may name from now on."""
    tenant_id = await tenants.find_or_create(tx, name)
    if models:
        await tenants.set_models(tx, tenant_id, models)
        await outbox.note(tx.of(tenant_id), Action.TENANT_CHANGED, None, {"models": models})
    return tenant_id


@cli.command(name="list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """List the keys, revoked and expired ones too. The last use is known to the minute."""
    database_url = cli_database.find(config, state_dir)
    found = cli_database.transact(database_url, lambda tx: keys.list_all(tx, tenant=tenant))
    head = ("ID", "TENANT", "NAME", "SCOPES", "DIALECT", "CREATED", "EXPIRES", "LAST USED", "STATE")
    for line in cli_tables.lines(head, map(_row, found)):
        print(line)


@cli.command()
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `key list` shows it.")],  # noqa: A002 its name
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Revoke a key. Servers notice within `key_cache_seconds`; what already runs is finished."""
    key_id = ids.parse_key_id(id)
    if key_id is None or not cli_database.transact(
        cli_database.find(config, state_dir), lambda tx: _revoke(tx, key_id)
    ):
        # A whole key that was given by mistake is not printed again.
        raise ConfigurationError(f"there is no key {id[:35]!r}: `holdfast key list` shows them")
    print(f"{id} is revoked.")


async def _revoke(tx: SystemTx, key_id: UUID) -> bool:
    """Whether there is such a key."""
    revoked = await keys.revoke(tx, key_id)
    if revoked and revoked.is_first:
        await outbox.note(tx.of(revoked.tenant_id), Action.KEY_REVOKED, key_id)
    return revoked is not None


def check_host(database_url: str, host: str, *, insecure: bool) -> None:
    """Keep a server without keys on this machine.

    Raises:
        ConfigurationError: the host is reachable for others, there is no key, and nobody said that is well.
    """
    if insecure or _is_loopback(host) or cli_database.transact(database_url, keys.exist):
        return
    raise ConfigurationError(
        f"anybody who reaches {host} could use this server, because there is no key: "
        "run `holdfast key create` first, or say --insecure"
    )


def _is_loopback(host: str) -> bool:
    """Whether nobody else can reach it: all that the name may stand for is on this machine."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def _scopes(names: Sequence[ScopeName]) -> Scope:
    scopes = Scope(0)
    for name in names:
        scopes |= Scope[name.name]
    return scopes


def _check_text(option: str, text: str, *, may_be_empty: bool) -> None:
    """What a column can hold and a table can show."""
    if (not text and not may_be_empty) or len(text) > 200 or not (text.isprintable() or not text):
        raise ConfigurationError(f"{option} has to be printable text of at most 200 characters")


def _show(key: Key, tenant: str, scopes: Scope, days: float | None) -> None:
    """The key alone on the standard output, for scripts; what is to be said about it beside that."""
    print(key.text, flush=True)
    lasts = "does not expire" if days is None else f"expires in {days:g} days"
    told = f"{ids.key_id(key.id)} of tenant {tenant}, scopes {', '.join(scopes.words)}, {lasts}."
    print(f"{told} Keep it: it is not shown again.", file=sys.stderr)


def _row(key: ListedKey) -> tuple[str, ...]:
    state = "revoked" if key.revoked_at else "expired" if key.has_expired else "valid"
    times = (key.created_at, key.expires_at, key.last_used_at)
    created, expires, used = (_minute(time) for time in times)
    return (
        ids.key_id(key.id),
        key.tenant,
        key.name,
        ",".join(key.scopes.words),
        key.dialect or "-",
        created,
        expires,
        used,
        state,
    )


def _minute(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time else "-"
