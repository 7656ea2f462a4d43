"""`holdfast audit`: the audit trails, read and verified. Nothing here writes to the database."""

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from app import cli_database, cli_tables, cli_trails
from app.cli_options import Config, StateDir
from app.cli_trails import Trail
from app.domain.audit import WORDS, Record, parse_subject
from app.domain.audit import shown as shown_record
from app.generation import verification
from app.generation.comparison import Change, compare
from app.generation.verification import Verdict
from app.resources import signer_of
from app.settings import ConfigurationError
from app.store import audit
from app.store.db import Database

cli = typer.Typer(
    help="Read and verify the audit trails, on `database_url`, or else on the database of a running "
    "`holdfast serve`.\n\nEach tenant has a trail, and the server has one of its own.",
    no_args_is_help=True,
)

Tenant = Annotated[str | None, typer.Option(help="Only the trail of this tenant.")]
Server = Annotated[bool, typer.Option("--server", help="Only the server's own: changes of its settings.")]


@cli.command()
def verify(
    tenant: Tenant = None,
    server: Server = False,
    public_key: Annotated[
        list[str] | None,
        typer.Option(metavar="HEX", help="Whose signatures count, instead of this server's. Repeatable."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Checkpoints kept elsewhere, to compare with.")
    ] = None,
    contents: Annotated[
        bool, typer.Option("--contents", help="Compare what is stored with what the trail vouches for.")
    ] = False,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Read all trails from their first record on, and name the record at which one is not what it was.

    The exit code is then 1. What was noted but has no place in its trail yet is counted, not vouched for.
    """
    settings = cli_database.settings_with_key(config, state_dir)
    trusted = cli_trails.public_keys(public_key) if public_key else signer_of(settings).trusted
    if not trusted:
        _say("Without a seal key or --public-key nothing is known of who signed the checkpoints.")
    kept = cli_trails.read_kept(checkpoint, tenant, is_server=server) if checkpoint else None

    async def work(db: Database) -> list["_Report"]:
        trails = await cli_trails.find(db, tenant, is_server=server, kept=kept)
        is_hidden, length = not sys.stderr.isatty(), await _length(db, trails)
        with typer.progressbar(length=length, file=sys.stderr, hidden=is_hidden) as bar:
            return [await _verified(db, each, trusted, bar.update, has_contents=contents) for each in trails]

    reports = cli_database.run(cli_database.of_settings(settings), work)
    for report in reports:
        print(report.text)
    if not all(report.is_good for report in reports):
        raise typer.Exit(1)


@cli.command(name="list")
def list_records(
    tenant: Annotated[str, typer.Option(help="Whose trail.")] = "default",
    server: Annotated[bool, typer.Option("--server", help="The server's own instead.")] = False,
    action: Annotated[str | None, typer.Option(help="Only of this kind, as response.created.")] = None,
    subject: Annotated[
        str | None, typer.Option(help="Only about this response, conversation or key.")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="Only what this key did.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    after: Annotated[int | None, typer.Option(min=0, metavar="SEQ", help="Go on after this record.")] = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="In the order of the trail.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, as the API has it.")] = False,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """List the records of a trail, newest first; all of them, or those of one action, subject or key."""
    by, value = _filter(action, subject, key)

    async def work(db: Database) -> tuple[list[Record], int]:
        [trail] = await cli_trails.find(db, None if server else tenant, is_server=server)
        newest_first = not oldest_first
        async with db.read(trail.caller) as tx:
            found = await audit.page(
                tx, limit=limit, newest_first=newest_first, after=after, by=by, value=value
            )
            return found, await audit.pending(tx)

    found, pending = cli_database.run(cli_database.find(config, state_dir), work)
    shown = [shown_record(record) for record in found]
    for line in map(json.dumps, shown) if as_json else cli_tables.lines(_HEAD, map(_row, shown)):
        print(line)
    if pending:
        _say(f"{pending} more were noted and have no place in the trail yet: workers see to that.")


@cli.command(name="checkpoints")
def list_checkpoints(
    tenant: Tenant = None, server: Server = False, config: Config = None, state_dir: StateDir = None
) -> None:
    """Print all checkpoints as JSON, for `verify --checkpoint`.

    Kept where nobody who may write to the database can change them, they show that nothing was cut off.
    """

    async def work(db: Database) -> list[dict[str, Any]]:
        trails = await cli_trails.find(db, tenant, is_server=server)
        return [each for trail in trails for each in await cli_trails.checkpoints(db, trail)]

    found = cli_database.run(cli_database.find(config, state_dir), work)
    print(json.dumps({"object": "list", "data": found}, indent=1))


@cli.command(name="public-key")
def show_public_key(config: Config = None, state_dir: StateDir = None) -> None:
    """Print the key that checks this server's signatures. It is no secret."""
    key = signer_of(cli_database.settings_with_key(config, state_dir)).public_key
    if key is None:
        raise ConfigurationError("there is no seal key, from which the one that signs is made: set seal_key")
    print(key.hex())


@dataclass(frozen=True, slots=True)
class _Report:
    """What a verification came to, for people."""

    text: str
    is_good: bool


async def _verified(
    db: Database,
    trail: Trail,
    trusted: Collection[bytes],
    progress: Callable[[int], object],
    *,
    has_contents: bool,
) -> _Report:
    changes = dict[str, Change]()

    async def on_page(records: Sequence[Record]) -> None:
        progress(len(records))
        if has_contents:
            changes.update({each.name: each for each in await compare(db, trail.caller, records)})

    verdict = await verification.verify(db, trail.caller, trusted=trusted, kept=trail.kept, on_page=on_page)
    async with db.read(trail.caller) as tx:
        pending = await audit.pending(tx)
    lines = [f"{each.name} {each.reason} (record {each.seq})" for each in changes.values()]
    lines.append(_words(verdict, pending, has_keys=bool(trusted)))
    is_good = verdict.fault is None and not changes
    return _Report("\n".join(f"{trail.name}: {line}" for line in lines), is_good)


def _words(verdict: Verdict, pending: int, *, has_keys: bool) -> str:
    if verdict.fault:
        return f"record {verdict.fault.seq} {verdict.fault.reason}"
    words = [f"{verdict.records} records are as they were written"]
    if has_keys:
        words.append(f"signed for up to record {verdict.vouched_seq}")
    if pending:
        words.append(f"{pending} more have no place in the trail yet")
    return "; ".join(words)


async def _length(db: Database, trails: Sequence[Trail]) -> int:
    """How many records there are to read."""
    length = 0
    for trail in trails:
        async with db.read(trail.caller) as tx:
            length += (await audit.state(tx)).last
    return length


def _filter(action: str | None, subject: str | None, key: str | None) -> tuple[str | None, int | UUID | None]:
    """What records are asked for by.

    Raises:
        ConfigurationError: several things at once, or what no record can have.
    """
    asked = zip(audit.FILTERS, ("--action", "--subject", "--key"), (action, subject, key), strict=True)
    given = [each for each in asked if each[2] is not None]
    if not given:
        return None, None
    if len(given) > 1:
        raise ConfigurationError(f"{given[0][1]} and {given[1][1]} exclude each other")
    [(by, option, text)] = given
    value = WORDS.get(text or "") if by == "action" else parse_subject(text or "")
    if value is None:
        known = f": one of {', '.join(WORDS)}" if by == "action" else ""
        raise ConfigurationError(f"{option} is not known{known}")
    return by, value


_HEAD = ("SEQ", "AT", "ACTION", "SUBJECT", "KEY", "DATA")


def _row(shown: Mapping[str, Any]) -> tuple[str, ...]:
    at = shown["at"][:19].replace("T", " ")
    subject, key = shown["subject"] or "-", shown["key_id"] or "-"
    return str(shown["seq"]), at, shown["action"], subject, key, shown["data"]


def _say(text: str) -> None:
    print(text, file=sys.stderr)
