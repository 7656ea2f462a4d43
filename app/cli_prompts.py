"""`holdfast prompt`: the templates that creates refer to, kept from files."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from app import cli_database, cli_tables
from app.api.prompts import prompt_object
from app.api.schemas.prompt import CREATE
from app.api.validation import check_shape, parse_object
from app.cli_options import Config, StateDir
from app.domain import prompts as domain
from app.domain.prompts import Prompt, Version
from app.errors import RequestError
from app.generation import prompt_keeping
from app.generation.prompts import read, refuse_secrets
from app.settings import ConfigurationError
from app.store import prompts, tenants
from app.store.db import SystemTx, Tx

cli = typer.Typer(
    help="Keep, list and show prompts: templates that a create names by `prompt`. They work on "
    "`database_url`, or else on the database of a running `holdfast serve`.",
    no_args_is_help=True,
)

PAGE = 100

Tenant = Annotated[str, typer.Option(help="Whose prompts they are.")]


@cli.command()
def put(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="JSON of the template; - is the standard input.")
    ],
    tenant: Tenant = "default",
    id: Annotated[  # noqa: A002 its name
        str | None,
        typer.Option(metavar="ID", help="The prompt that it is a version of; made where there is none."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What it is for, for the list.")] = None,
    pin: Annotated[
        bool | None,
        typer.Option(
            "--pin/--unpin",
            help="Keep this version the default, also when there are newer ones; or always the newest.",
        ),
    ] = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Keep a template as a new prompt, or as a new version of one, and print its id and version.

    The template that the newest version has makes no new one: a deployment may put all its files each time.
    """
    asked = _checked({"id": id, "name": name, "template": _read(file)})

    async def work(tx: SystemTx) -> tuple[Prompt, Version]:
        mine = tx.of(await _tenant(tx, tenant))
        try:
            prompt, version = await _put(mine, asked)
        except RequestError as error:
            # Somebody else has made it, or removed it, at the same moment.
            raise ConfigurationError(error.message) from None
        changes: dict[str, Any] = {} if name is None or name == prompt.name else {"name": name}
        if pin is not None:
            changes["default_version"] = str(version.number) if pin else None
        return (await prompt_keeping.update(mine, prompt.id, changes) if changes else prompt), version

    prompt, version = cli_database.transact(cli_database.find(config, state_dir), work)
    print(f"{prompt.id} {version.number}", flush=True)
    print(f"Version {prompt.default} is the default.", file=sys.stderr)


@cli.command(name="list")
def list_prompts(tenant: Tenant = "default", config: Config = None, state_dir: StateDir = None) -> None:
    """List the prompts of a tenant, oldest first."""

    async def work(tx: SystemTx) -> Sequence[Prompt]:
        return await _all(tx.of(await _tenant(tx, tenant)))

    found = cli_database.transact(cli_database.find(config, state_dir), work)
    head = ("ID", "NAME", "LATEST", "DEFAULT", "STATE")
    for line in cli_tables.lines(head, map(_row, found)):
        print(line)


@cli.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `prompt list` shows it.")],  # noqa: A002 its name
    tenant: Tenant = "default",
    version: Annotated[str | None, typer.Option(help="Instead of the default version.")] = None,
    template: Annotated[
        bool, typer.Option("--template", help="Only the template, as `prompt put` takes it.")
    ] = False,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Show a prompt with one version's template, as JSON."""

    async def work(tx: SystemTx) -> tuple[Prompt, Version]:
        mine = tx.of(await _tenant(tx, tenant))
        try:
            return await read(mine, id, version)
        except RequestError as error:
            raise ConfigurationError(error.message) from None

    prompt, found = cli_database.transact(cli_database.find(config, state_dir), work)
    shown = found.template if template else prompt_object(prompt, found)
    print(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())


def _read(file: str) -> dict[str, Any]:
    try:
        return parse_object(sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
    except RequestError as error:
        raise ConfigurationError(f"{file} is no template: {error.message}") from None


def _checked(asked: dict[str, Any]) -> dict[str, Any]:
    """What a create of a prompt would be checked for, and for what a table can show."""
    try:
        check_shape(CREATE, asked)
        refuse_secrets(asked["template"], path="template.")
    except RequestError as error:
        raise ConfigurationError(error.message) from None
    if not (asked["name"] or "").isprintable():
        raise ConfigurationError("--name has to be printable text")
    return {**asked, "template": domain.kept(asked["template"])}


async def _tenant(tx: SystemTx, name: str) -> int:
    tenant_id = await tenants.find(tx, name)
    if tenant_id is None:
        raise ConfigurationError(f"there is no tenant {name!r}: `holdfast key create` makes one")
    return tenant_id


async def _put(tx: Tx, asked: dict[str, Any]) -> tuple[Prompt, Version]:
    """A new prompt, a new version, or the newest one where it is the same."""
    prompt = await prompts.lock(tx, asked["id"]) if asked["id"] else None
    if prompt is None:
        return await prompt_keeping.create(
            tx, asked["template"], prompt_id=asked["id"], name=asked["name"] or "", metadata={}
        )
    newest = await read(tx, prompt.id, str(prompt.latest))
    if newest[1].template == asked["template"]:
        return newest
    return await prompt_keeping.extend(tx, prompt.id, asked["template"])


async def _all(tx: Tx) -> Sequence[Prompt]:
    found = list[Prompt]()
    while page := await prompts.page(
        tx, limit=PAGE, newest_first=False, after=found[-1].key if found else None
    ):
        found += page
    return found


def _row(prompt: Prompt) -> tuple[str, ...]:
    state = "newest" if prompt.pinned is None else "pinned"
    return prompt.id, prompt.name or "-", str(prompt.latest), str(prompt.default), state
