"""Everything in one command: each part is a block, so whatever happens they end in reverse order."""

import signal
import socket
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from app.embedded.api_process import listen
from app.embedded.api_processes import ApiProcesses
from app.embedded.errors import CannotStart
from app.embedded.locks import only_one
from app.embedded.postgres import EmbeddedPostgres
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
def embedded(settings: Settings) -> Generator[EmbeddedPostgres | None]:
    """The embedded Postgres, yet to be started and ours alone; None where another one is configured."""
    if settings.database_url:
        yield None
        return
    with only_one(settings.state_dir):
        yield EmbeddedPostgres(settings.state_dir, bin_dir=settings.embedded_postgres_bin)


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
    """Run the database, migrations and the API until a signal comes.

    Args:
        port: 0 picks a free one.
        workers: Number of API processes.
        migrate: Called with the database's URL before the API starts.
        on_ready: Called with the port once everything serves.

    Raises:
        CannotStart: something is in the way, or died and could not be replaced.
    """
    with stoppable(), closing(listen(host, port)) as listener, embedded(settings) as postgres:
        url = postgres.url if postgres else _url(settings)
        # The API loads while the database starts. It is closed first all the same: it runs on it.
        with (
            _apis(listener, workers, settings, config, url) as apis,
            postgres or nullcontext(),
            closing(apis),
        ):
            migrate(url)
            apis.serve()
            on_ready(listener.getsockname()[1])
            apis.watch(*([postgres.ended_fd] if postgres else []))
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
    with (
        stoppable(),
        closing(listen(host, port)) as listener,
        _apis(listener, workers, settings, config, _url(settings)) as apis,
    ):
        apis.serve()
        on_ready(listener.getsockname()[1])
        apis.watch()


def _url(settings: Settings) -> str:
    return settings.database_url.get_secret_value() if settings.database_url else ""


def _apis(
    listener: socket.socket, count: int, settings: Settings, config: Path | None, url: str
) -> ApiProcesses:
    """The processes read the settings that we have read, and the database's URL over them."""
    added = {PREFIX + "DATABASE_URL": url, PREFIX + "STATE_DIR": str(settings.state_dir)}
    if config:
        added[CONFIG_VARIABLE] = str(config.absolute())
    return ApiProcesses(
        listener,
        count,
        environment=dict(environment()) | added,
        grace_seconds=settings.shutdown_grace_seconds,
    )
