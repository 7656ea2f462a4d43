"""Everything in one command: each part is a block, so whatever happens they end in reverse order."""

import signal
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from pydantic import SecretStr

from app.embedded import worker_process
from app.embedded.api_process import listen
from app.embedded.api_processes import ApiProcesses
from app.embedded.errors import CannotStart
from app.embedded.guarded import Guarded
from app.embedded.kept import Kept
from app.embedded.locks import only_one
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.seal_key import own_key
from app.embedded.valkey import EmbeddedValkey
from app.settings import CONFIG_VARIABLE, PREFIX, Settings, environment


@contextmanager
def stoppable() -> Generator[None]:
    """Make SIGTERM and SIGHUP what Ctrl-C is: an exception that unwinds the blocks. Ends here, in peace.

    A second signal while we unwind cuts short whatever is being waited for.
    """
    signals = [signal.SIGINT, signal.SIGTERM]
    # Whoever started us with nohup wants us to outlive the terminal.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def embedded(settings: Settings) -> Generator[tuple[EmbeddedPostgres | None, EmbeddedValkey | None]]:
    """The servers yet to be started and ours alone; None where another one is configured."""
    if settings.database_url and settings.broker_url:
        yield None, None
        return
    with only_one(settings.state_dir):
        yield (
            None
            if settings.database_url
            else EmbeddedPostgres(settings.state_dir, bin_dir=settings.embedded_postgres_bin),
            None if settings.broker_url else EmbeddedValkey(settings.state_dir),
        )


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    workers: int,
    config: Path | None,
    migrate: Callable[[str], None],
    on_ready: Callable[[int], None],
) -> None:
    """Run the database, the broker, migrations, the API and a worker until a signal comes.

    Args:
        port: 0 picks a free one.
        workers: Number of API processes.
        migrate: Called with the database's URL before the API starts.
        on_ready: Called with the port once everything serves.

    Raises:
        CannotStart: something is in the way, or died and could not be replaced.
    """
    with (
        stoppable(),
        closing(listen(host, port)) as listener,
        embedded(settings) as (postgres, valkey),
        ExitStack() as parts,
    ):
        url = postgres.url if postgres else _text(settings.database_url)
        variables = _variables(settings, config, postgres, valkey)
        # The API loads while the database starts. It is closed first all the same: it runs on it.
        apis = parts.enter_context(_apis(listener, workers, settings, variables))
        if postgres:
            parts.enter_context(postgres)
        broker = parts.enter_context(Kept("broker", valkey.start)) if valkey else None
        worker = parts.enter_context(Kept("worker", lambda: _worker(settings, variables)))
        parts.callback(_end, apis, worker)
        if broker:
            broker.start()
        migrate(url)
        apis.serve()
        worker.start()
        on_ready(listener.getsockname()[1])
        _watch(apis, [postgres.ended_fd] if postgres else [], [broker, worker] if broker else [worker])
        raise CannotStart(f"Postgres has ended; {settings.state_dir / 'postgres.log'} says why")


def serve_api(
    settings: Settings,
    *,
    host: str,
    port: int,
    workers: int,
    config: Path | None,
    on_ready: Callable[[int], None],
) -> None:
    """Run several API processes on a database that others look after, until a signal comes."""
    variables = process_environment(settings, config)
    with (
        stoppable(),
        closing(listen(host, port)) as listener,
        _apis(listener, workers, settings, variables) as apis,
    ):
        apis.serve()
        on_ready(listener.getsockname()[1])
        apis.watch()


def process_environment(
    settings: Settings,
    config: Path | None,
    *,
    database_url: str | None = None,
    broker_url: str | None = None,
    seal_key: str | None = None,
) -> dict[str, str]:
    """Variables of a process that reads the settings that we have read, and these over them."""
    added = {
        "DATABASE_URL": database_url or _text(settings.database_url),
        "BROKER_URL": broker_url or _text(settings.broker_url),
        "SEAL_KEY": seal_key or _text(settings.seal_key),
        "STATE_DIR": str(settings.state_dir),
        "WORKER_CONCURRENCY": str(settings.worker_concurrency),
    }
    variables = dict(environment()) | {PREFIX + name: value for name, value in added.items()}
    if config:
        variables[CONFIG_VARIABLE] = str(config.absolute())
    return variables


def _variables(
    settings: Settings,
    config: Path | None,
    postgres: EmbeddedPostgres | None,
    valkey: EmbeddedValkey | None,
) -> dict[str, str]:
    """Variables of the processes of `serve`, which know our own servers, and our own seal key.

    A database that others use needs a key that they have, so one of our own is for a Postgres of our own.
    """
    return process_environment(
        settings,
        config,
        database_url=postgres and postgres.url,
        broker_url=valkey and valkey.url,
        seal_key=own_key(settings.state_dir) if postgres and not settings.seal_key else None,
    )


def _watch(apis: ApiProcesses, vital: Sequence[int], kept: Sequence[Kept]) -> None:
    """Replace what dies, until one of the vital descriptors is readable."""
    while True:
        watched = [fd for part in kept for fd in part.ended_fds]
        due = [part.due_at for part in kept if part.due_at is not None]
        if apis.watch(*vital, *watched, until=min(due, default=None)) & set(vital):
            return
        for part in kept:
            part.tend()


def _end(apis: ApiProcesses, worker: Kept) -> None:
    """What runs in the API and in the worker has the same time to end; an interruption cuts both short."""
    worker.request_stop()
    try:
        apis.close()
    except BaseException:
        worker.request_stop()
        raise


def _text(url: SecretStr | None) -> str:
    return url.get_secret_value() if url else ""


def _worker(settings: Settings, variables: Mapping[str, str]) -> Guarded:
    return worker_process.start(variables, grace_seconds=settings.shutdown_grace_seconds)


def _apis(
    listener: socket.socket, count: int, settings: Settings, variables: Mapping[str, str]
) -> ApiProcesses:
    return ApiProcesses(listener, count, environment=variables, grace_seconds=settings.shutdown_grace_seconds)
