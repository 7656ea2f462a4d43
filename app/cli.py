"""The `holdfast` command. Each subcommand reads the settings, calls one function and says what happened."""

import json
import sys
import textwrap
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from app import cli_audit, cli_export, cli_keys, cli_prompts, cli_webhooks
from app.cli_options import Config, StateDir
from app.effective_settings import MASK, masked_url
from app.embedded import api_process, supervisor, worker_process
from app.embedded.errors import CannotStart
from app.errors import Unavailable
from app.observability import configure_logging
from app.settings import ConfigurationError, Settings, Upstream
from app.store import migrate as migrations

cli = typer.Typer(
    name="holdfast",
    help="The durable, self-hosted server of the OpenAI Responses API.\n\n"
    "`holdfast serve` runs everything in one command; `migrate`, `api` and `worker` are its parts "
    "for production.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Host = Annotated[
    str, typer.Option(help="Address to listen on. 0.0.0.0 is every IPv4 address of the machine.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 picks a free one.")]
Workers = Annotated[int, typer.Option(min=1, help="API processes. More than one for more than one core.")]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Listen beyond this machine though there is no key to keep anybody out."),
]

cli.add_typer(cli_keys.cli, name="key")
cli.add_typer(cli_prompts.cli, name="prompt")
cli.add_typer(cli_audit.cli, name="audit")
cli.add_typer(cli_export.cli, name="export")
cli.add_typer(cli_webhooks.cli, name="webhook")


@cli.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show_version:
        print(f"holdfast {version('holdfast')}")
        raise typer.Exit


@cli.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    state_dir: StateDir = None,
    config: Config = None,
    workers: Workers = 1,
    insecure: Insecure = False,
) -> None:
    """Run everything: Postgres and a broker where none is configured, migrations, the API, a worker.

    Ctrl-C or SIGTERM stops it in order: what runs gets `shutdown_grace_seconds`.
    A second one makes it quick.
    """
    settings = Settings.load(config, state_dir=state_dir)
    configure_logging(settings.log_level)

    def prepare(url: str) -> None:
        migrations.upgrade(url)
        cli_keys.check_host(url, host, insecure=insecure)

    supervisor.serve(
        settings,
        host=host,
        port=port,
        workers=workers,
        config=config,
        migrate=prepare,
        on_ready=lambda bound: announce(settings, host, bound, broker="embedded"),
    )


@cli.command()
def api(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    config: Config = None,
    workers: Workers = 1,
    insecure: Insecure = False,
) -> None:
    """Run the API alone, on the database that `database_url` names.

    It migrates nothing: run `holdfast migrate` first.
    """
    settings = _with_database(config)
    configure_logging(settings.log_level)
    migrations.require(_url(settings))
    cli_keys.check_host(_url(settings), host, insecure=insecure)
    if workers > 1:
        supervisor.serve_api(
            settings,
            host=host,
            port=port,
            workers=workers,
            config=config,
            on_ready=lambda bound: announce(settings, host, bound),
        )
        return
    listener = api_process.listen(host, port)
    bound: int = listener.getsockname()[1]
    api_process.run(listener, settings, on_ready=lambda: announce(settings, host, bound))


@cli.command()
def worker(
    config: Config = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Responses to generate at once; `worker_concurrency` where not given."),
    ] = None,
) -> None:
    """Run a worker alone: it generates background responses, delivers webhooks and looks after lost ones.

    Any number of them work on one database and one broker. SIGTERM lets runs end for
    `shutdown_grace_seconds`, then hands back what nobody has seen anything of.
    """
    settings = _with_database(config, worker_concurrency=concurrency)
    if not settings.broker_url:
        raise ConfigurationError("broker_url is not set, and only `holdfast serve` brings its own broker")
    worker_process.become(supervisor.process_environment(settings, config))


@cli.command()
def migrate(
    config: Config = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead of running it.")] = False,
) -> None:
    """Bring the database to the schema of this release.

    Safe to run from several places at once, and before the API of this release replaces an older one.
    """
    settings = _with_database(config)
    configure_logging(settings.log_level)
    if sql:
        print(migrations.script(_url(settings)))
        return
    migrations.upgrade(_url(settings))
    print("The database is at the schema of this release.")


@cli.command(name="config")
def show_config(config: Config = None) -> None:
    """Print the settings in effect, as a file that `--config` takes; secrets are masked comments."""
    print(render(Settings.load(config)))


def announce(settings: Settings, host: str, port: int, *, broker: str = "none") -> None:
    """Say where it listens, what it runs on and what to try; `broker` is for where none is configured."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 compared, not bound
    base = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    url = settings.database_url
    where = masked_url(url) if url else f"embedded in {settings.state_dir}"
    names = [name for each in settings.effective_upstreams for name in (*each.aliases, *each.models)]
    model = settings.default_model or next((name for name in names if not set(name) & set("*?[")), "gpt-5.4")
    print(f"Holdfast {version('holdfast')} on {base}/v1  (docs: {base}/docs)")
    if settings.broker_url:
        broker = masked_url(settings.broker_url)
    print(f"Postgres: {where}; broker: {broker}; models: {', '.join(names)}")
    print(
        f'Try: OpenAI(base_url="{base}/v1", api_key="unused")'
        f'.responses.create(model="{model}", input="Hello")',
        flush=True,
    )


def render(settings: Settings) -> str:
    """TOML of the settings with their descriptions; what is unset or secret is a comment."""
    blocks: list[str] = []
    # What is inherited comes last.
    for name, field in sorted(Settings.model_fields.items(), key=lambda each: each[0] not in _OWN):
        value = getattr(settings, name)
        if name != "upstreams":
            blocks.append(f"{_comment(field.description)}\n{_assignment(name, value)}")
    upstreams = Settings.model_fields["upstreams"].description
    blocks.append(_comment(upstreams) + "".join(_upstream(each) for each in settings.effective_upstreams))
    return "\n\n".join(blocks)


_OWN = Settings.__annotations__.keys()


def main() -> None:
    """Run the command; what a person can put right is one line, and never a traceback."""
    try:
        cli(prog_name="holdfast")
    except ConfigurationError as error:
        _fail(str(error), 2)
    except (CannotStart, Unavailable) as error:
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    print(f"holdfast: {message}", file=sys.stderr)
    sys.exit(code)


def _with_database(config: Path | None, **overrides: object) -> Settings:
    settings = Settings.load(config, **overrides)
    if not settings.database_url:
        raise ConfigurationError("database_url is not set, and only `holdfast serve` brings its own Postgres")
    return settings


def _url(settings: Settings) -> str:
    return settings.database_url.get_secret_value() if settings.database_url else ""


def _comment(text: str | None) -> str:
    return textwrap.fill(text or "", 100, initial_indent="# ", subsequent_indent="# ")


def _assignment(name: str, value: object) -> str:
    if value is None:
        return f"# {name} is not set"
    if name == "seal_keys_old":
        return f"# {name} = [{MASK}]" if value else f"{name} = []"
    if isinstance(value, SecretStr):
        return f"# {name} = {masked_url(value) if name.endswith('_url') else MASK}"
    return f"{name} = {_toml(value)}"


def _upstream(upstream: Upstream) -> str:
    fields = Upstream.model_fields.items()
    given = (
        f"{_comment(field.description)}\n{_assignment(name, getattr(upstream, name))}"
        for name, field in fields
    )
    return "\n[[upstreams]]\n" + "\n".join(given)


def _toml(value: object) -> str:
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {json.dumps(each)}" for key, each in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False, default=str)


if __name__ == "__main__":
    main()
