"""`holdfast export`: what is stored, and the trail that vouches for it, as files; and verifying them."""

import sys
from collections.abc import Awaitable, Callable, Collection, Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from app import cli_database, cli_filters, cli_trails
from app.cli_options import Config, StateDir
from app.domain.export import Export, Place
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.errors import InvalidRequest
from app.generation import export_check, export_file, export_folder
from app.generation.export_check import Verdict, Wrong
from app.generation.export_file import CannotExport, Order, Report
from app.generation.ledger import Ledger
from app.resources import prices_of, signer_of
from app.settings import ConfigurationError, Settings
from app.store import tenants
from app.store.db import Database

cli = typer.Typer(
    help="Write stored responses, and the audit trail that vouches for them, to a file; and verify such a "
    "file.\n\nWorks on `database_url`, or else on the database of a running `holdfast serve`."
)

STEPS = 1000

PATIENCE_SECONDS = 3.0
"""How long workers are left to settle what was noted: they run on the server's settings, with its prices."""


class Form(StrEnum):
    """How an export is written."""

    JSONL = "jsonl"
    PARQUET = "parquet"


Output = Annotated[
    Path | None, typer.Option(metavar="PATH", help="The file to write, or for Parquet the folder.")
]


@cli.callback(invoke_without_command=True)
def export(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Whose responses.")] = None,
    output: Output = None,
    form: Annotated[Form, typer.Option("--format", help="Lines of JSON, or Parquet files.")] = Form.JSONL,
    model: cli_filters.Model = None,
    status: cli_filters.Ended = None,
    created_after: cli_filters.From = None,
    created_before: cli_filters.Until = None,
    conversation: cli_filters.Conversation = None,
    previous_response_id: cli_filters.Previous = None,
    root: cli_filters.Root = None,
    user: cli_filters.User = None,
    safety_identifier: cli_filters.Safety = None,
    metadata: cli_filters.Pairs = None,
    background: cli_filters.Background = None,
    error_code: cli_filters.ErrorCode = None,
    tool: cli_filters.Tool = None,
    has_attempts_over: cli_filters.Attempts = None,
    query: cli_filters.Words = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Export a tenant's responses and its audit trail.

    Broken off, the same command goes on where it was, and the file is the same as if it had never been.
    """
    if context.invoked_subcommand:
        return
    if tenant is None or output is None:
        raise ConfigurationError("say whose responses, and where to: --tenant NAME --output PATH")
    filters = cli_filters.of(
        model=model, status=status, created_after=created_after, created_before=created_before,
        conversation=conversation, previous_response_id=previous_response_id, root=root, user=user,
        safety_identifier=safety_identifier, metadata=metadata, background=background,
        error_code=error_code, tool=tool, has_attempts_over=has_attempts_over, query=query,
    )  # fmt: skip
    settings = cli_database.settings_with_key(config, state_dir)
    _print(_run(settings, tenant, filters, output, form), output)


@cli.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The file, or the folder of Parquet files.")],
    public_key: Annotated[
        list[str] | None,
        typer.Option(metavar="HEX", help="Whose signatures count: `holdfast audit public-key`. Repeatable."),
    ] = None,
) -> None:
    """Say whether an export is what it was: its bytes, its trail, and its responses by the trail.

    Needs no database. The exit code is 1 if anything is wrong.
    """
    trusted = cli_trails.public_keys(public_key or ())
    try:
        verdict = _verified(path, trusted)
    except (Wrong, OSError) as error:
        print(f"holdfast: {path}: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(f"{path} is what it was: {_counts(verdict.responses, verdict.audit_records)}.")
    if verdict.responses and path.is_file():
        print(f"{verdict.proven:,} of the responses are proven by the trail to be what was stored.")
    if trusted:
        print(f"Signed up to record {verdict.vouched_seq:,} of {verdict.head.seq:,}.")
    else:
        print("Signatures were not looked at: --public-key says whose count.")


def _run(settings: Settings, tenant: str, filters: Filters, output: Path, form: Form) -> dict[str, Any]:
    async def work(db: Database) -> dict[str, Any]:
        async with db.begin_system() as tx:
            tenant_id = await tenants.find(tx, tenant)
        if tenant_id is None:
            raise ConfigurationError(f"there is no tenant {tenant!r}")
        ledger = Ledger(db, signer_of(settings), prices_of(settings))
        write: Callable[[Order, Path], Awaitable[dict[str, Any]]] = (
            export_folder.write if form is Form.PARQUET else export_file.write
        )
        with _progress() as report:
            return await write(Order(ledger, Caller(tenant_id), filters, report, PATIENCE_SECONDS), output)

    try:
        return cli_database.run(cli_database.of_settings(settings), work)
    except (CannotExport, InvalidRequest) as error:
        raise ConfigurationError(str(error)) from error


@contextmanager
def _progress() -> Generator[Report]:
    """A bar where somebody looks: how far through the time of the responses, then through the trail."""
    first, is_hidden = 0, not sys.stderr.isatty()
    with typer.progressbar(length=2 * STEPS, file=sys.stderr, hidden=is_hidden, show_eta=False) as bar:

        def report(begun: Export, place: Place) -> None:
            nonlocal first
            bounds = begun.bounds
            now, until = (each.int >> 80 for each in (place.response, bounds.until))
            first = first or now
            time = min(1.0, (now - first) / max(1, until - first))
            begin, end = bounds.audit_after.seq, bounds.audit_until.seq
            trail = (place.seq - begin) / max(1, end - begin)
            bar.label = _counts(place.responses, place.audit_records)
            bar.update(int(STEPS * (time + trail)) - bar.pos)

        yield report


def _verified(path: Path, trusted: Collection[bytes]) -> Verdict:
    """What a file was found to be, or what the trail in a folder was.

    Raises:
        Wrong: something is not what it was.
    """
    if path.is_dir():
        return export_folder.verify(path, trusted=trusted)
    beside = path.with_name(path.name + ".manifest.json")
    if beside.exists():
        export_file.check_sha256(path, orjson.loads(beside.read_bytes()))
    with path.open("rb") as file:
        return export_check.verify(file, trusted=trusted)


def _print(manifest: dict[str, Any], output: Path) -> None:
    print(f"{_counts(manifest['responses'], manifest['audit_records'])} in {output}.")
    if "sha256" in manifest:
        print(f"SHA-256 {manifest['sha256']}")
    else:
        for file in manifest["files"]:
            print(f"SHA-256 {file['sha256']}  {file['file']}")


def _counts(responses: int, records: int) -> str:
    return f"{responses:,} responses and {records:,} audit records"
