"""`holdfast webhook`: where tenants are told that their background responses have ended."""

import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer

from app import cli_database, cli_tables, ids
from app.cli_options import Config, StateDir
from app.domain.tenancy import Caller
from app.domain.webhooks import EVENT_TYPES, Endpoint, State
from app.errors import RequestError
from app.resources import seals_of, sender_of
from app.settings import ConfigurationError, Settings
from app.store import tenants, webhook_deliveries, webhook_endpoints
from app.store.db import Database, Tx
from app.store.webhook_endpoints import Changes
from app.webhooks import endpoints

_T = TypeVar("_T")

cli = typer.Typer(
    help="Create, list, change and test endpoints of webhooks, read what was delivered to them, and deliver "
    "it once more.\n\nWorks on `database_url`, or else on the database of a running `holdfast serve`.",
    no_args_is_help=True,
)


class EventName(StrEnum):
    """What an endpoint can be told of."""

    COMPLETED = "response.completed"
    FAILED = "response.failed"
    CANCELLED = "response.cancelled"
    INCOMPLETE = "response.incomplete"


class StateName(StrEnum):
    """How a delivery may stand."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


Tenant = Annotated[str, typer.Option(help="Whose endpoint.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Of an endpoint, as `webhook list` shows it.")]
EventId = Annotated[str, typer.Argument(metavar="EVENT", help="As `webhook deliveries` shows it.")]
Events = Annotated[
    list[EventName] | None,
    typer.Option("--event", help="What it is told of; everything, where not given. Repeatable."),
]


@cli.command()
def create(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to send: `https://…`.")],
    name: Annotated[str, typer.Option(help="What it is for.")],
    event: Events = None,
    tenant: Tenant = "default",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Create an endpoint and print its signing secret. It is shown this once."""
    settings = cli_database.settings_with_key(config, state_dir)
    given = Changes(_named(name), url, [each.value for each in event] if event else EVENT_TYPES)

    async def work(tx: Tx) -> tuple[Endpoint, str]:
        return await endpoints.create(
            tx,
            given,
            seals_of(settings),
            most=settings.max_webhook_endpoints,
            allowed=settings.webhook_allowed_networks,
        )

    made, secret = _transact(settings, tenant, work)
    _show_secret(made, secret)


@cli.command(name="list")
def list_endpoints(tenant: Tenant = "default", config: Config = None, state_dir: StateDir = None) -> None:
    """List the endpoints of a tenant, newest first."""
    settings = Settings.load(config, state_dir=state_dir)
    found = _transact(settings, tenant, lambda tx: webhook_endpoints.page(tx, after=None, limit=10_000))
    head = ("ID", "NAME", "URL", "EVENTS", "STATUS", "SECRET", "CREATED")
    for line in cli_tables.lines(head, map(_row, found)):
        print(line)


@cli.command()
def show(id: Id, tenant: Tenant = "default", config: Config = None, state_dir: StateDir = None) -> None:  # noqa: A002 its name
    """Print an endpoint as the API has it, without its secret."""
    settings = Settings.load(config, state_dir=state_dir)
    found = _transact(settings, tenant, lambda tx: endpoints.get(tx, _endpoint_key(id)))
    print(json.dumps(found.shown(), indent=1))


@cli.command()
def update(
    id: Id,  # noqa: A002 its name
    url: Annotated[str | None, typer.Option(help="Where to send from now on.")] = None,
    name: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    event: Annotated[
        list[EventName] | None, typer.Option("--event", help="All that it is told of. Repeatable.")
    ] = None,
    tenant: Tenant = "default",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Change the name, the URL or the whole set of events of an endpoint."""
    settings = Settings.load(config, state_dir=state_dir)
    types = [each.value for each in event] if event else None
    changes = Changes(None if name is None else _named(name), url, types)

    async def work(tx: Tx) -> Endpoint:
        return await endpoints.update(
            tx, _endpoint_key(id), changes, allowed=settings.webhook_allowed_networks
        )

    print(json.dumps(_transact(settings, tenant, work).shown(), indent=1))


@cli.command()
def delete(id: Id, tenant: Tenant = "default", config: Config = None, state_dir: StateDir = None) -> None:  # noqa: A002 its name
    """Delete an endpoint, with what is queued for it and with its log."""
    settings = Settings.load(config, state_dir=state_dir)
    _transact(settings, tenant, lambda tx: endpoints.delete(tx, _endpoint_key(id)))
    print(f"{id} is deleted.")


@cli.command()
def rotate(
    id: Id,  # noqa: A002 its name
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Let the old secret sign beside the new one for 24 hours.")
    ] = False,
    tenant: Tenant = "default",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Give an endpoint a new signing secret and print it. It is shown this once."""
    settings = cli_database.settings_with_key(config, state_dir)

    async def work(tx: Tx) -> tuple[Endpoint, str]:
        return await endpoints.rotate(tx, _endpoint_key(id), seals_of(settings), keeps_old=keep_old)

    changed, secret = _transact(settings, tenant, work)
    _show_secret(changed, secret)


@cli.command(name="test")
def send_sample(
    id: Id,  # noqa: A002 its name
    event: Annotated[EventName, typer.Option(help="What to send a sample of.")] = EventName.COMPLETED,
    tenant: Tenant = "default",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Send a signed sample from here, and say what was answered. The exit code is 1 if it was no success."""
    settings = cli_database.settings_with_key(config, state_dir)

    async def work(db: Database, caller: Caller) -> dict[str, Any]:
        sender, key = sender_of(settings), _endpoint_key(id)
        try:
            return await endpoints.sample(db, caller, sender, seals_of(settings), key, event_type=event.value)
        finally:
            await sender.close()

    told = _run(settings, tenant, work)
    print(f"The endpoint answered with status {told['status_code']}.")
    if not told["success"]:
        raise typer.Exit(1)


@cli.command()
def deliveries(
    id: Id,  # noqa: A002 its name
    status: Annotated[StateName | None, typer.Option(help="Only those that stand so.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, as the API has it.")] = False,
    tenant: Tenant = "default",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """List what was, and is to be, delivered to an endpoint: newest responses first."""
    state = State[status.name] if status else None

    async def work(tx: Tx) -> list[dict[str, Any]]:
        key = _endpoint_key(id)
        await endpoints.get(tx, key)
        found = await webhook_deliveries.page(tx, key, limit=limit, newest_first=True, state=state)
        return [each.shown() for each in found]

    shown = _transact(Settings.load(config, state_dir=state_dir), tenant, work)
    head = ("EVENT", "TYPE", "STATUS", "ATTEMPTS", "CREATED", "DUE", "ENDED")
    for line in map(json.dumps, shown) if as_json else cli_tables.lines(head, map(_delivery_row, shown)):
        print(line)


@cli.command()
def delivery(
    id: Id,  # noqa: A002 its name
    event: EventId,
    tenant: Tenant = "default",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Print a delivery with every attempt at it, as the API has it."""
    settings = Settings.load(config, state_dir=state_dir)
    found = _transact(
        settings, tenant, lambda tx: endpoints.delivery(tx, _endpoint_key(id), _event_key(event))
    )
    print(json.dumps(found, indent=1))


@cli.command()
def replay(
    id: Id,  # noqa: A002 its name
    event: EventId,
    tenant: Tenant = "default",
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Queue a delivery once more, with the same id and body. A worker sends it in its next round."""
    settings = Settings.load(config, state_dir=state_dir)
    _transact(settings, tenant, lambda tx: endpoints.replay(tx, _endpoint_key(id), _event_key(event)))
    print(f"{event} is queued.")


def _transact(settings: Settings, tenant: str, work: Callable[[Tx], Awaitable[_T]]) -> _T:
    """Do something in one transaction of a tenant's."""

    async def begun(db: Database, caller: Caller) -> _T:
        async with db.begin(caller) as tx:
            return await work(tx)

    return _run(settings, tenant, begun)


def _run(settings: Settings, tenant: str, work: Callable[[Database, Caller], Awaitable[_T]]) -> _T:
    """Do something for a tenant.

    Raises:
        ConfigurationError: there is no such tenant or endpoint, or it cannot be done.
    """

    async def found(db: Database) -> _T:
        async with db.begin_system() as tx:
            tenant_id = await tenants.find(tx, tenant)
        if tenant_id is None:
            raise ConfigurationError(f"there is no tenant {tenant!r}")
        return await work(db, Caller(tenant_id))

    try:
        return cli_database.run(cli_database.of_settings(settings), found)
    except RequestError as error:
        raise ConfigurationError(error.message) from error


def _endpoint_key(text: str) -> UUID:
    if (key := ids.parse_webhook_endpoint_id(text)) is None:
        raise endpoints.missing(text)
    return key


def _event_key(text: str) -> UUID:
    if (key := ids.parse_event_id(text)) is None:
        raise endpoints.no_delivery(text)
    return key


def _named(name: str) -> str:
    """What a column can hold and a table can show."""
    if not name or len(name) > 200 or not name.isprintable():
        raise ConfigurationError("--name has to be printable text of at most 200 characters")
    return name


def _show_secret(endpoint: Endpoint, secret: str) -> None:
    """The secret alone on the standard output, for scripts; what is to be said about it beside that."""
    print(secret, flush=True)
    told = f"{ids.webhook_endpoint_id(endpoint.id)}: {', '.join(endpoint.event_types)} to {endpoint.url}."
    print(f"{told} Keep the secret: it is not shown again.", file=sys.stderr)


def _row(endpoint: Endpoint) -> tuple[str, ...]:
    return (
        ids.webhook_endpoint_id(endpoint.id),
        endpoint.name,
        endpoint.url,
        ",".join(endpoint.event_types),
        "disabled" if endpoint.is_disabled else "enabled",
        endpoint.secret_hint,
        _minute(ids.created_at(endpoint.id)),
    )


def _delivery_row(shown: dict[str, Any]) -> tuple[str, ...]:
    return (
        shown["id"],
        shown["event_type"],
        shown["status"],
        str(shown["attempt_count"]),
        *(_minute(shown[name]) for name in ("created_at", "due_at", "ended_at")),
    )


def _minute(seconds: float | None) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}" if seconds else "-"
