import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.embedded.postgres import EmbeddedPostgres


@contextmanager
def reachable_folder() -> Generator[Path]:
    """A temporary folder: pytest's own are closed to the account that runs Postgres for root."""
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture
def state_dir() -> Generator[Path]:
    """A folder yet to be created."""
    with reachable_folder() as parent:
        yield parent / "state"


@pytest.fixture(scope="session")
def made() -> Generator[Path]:
    """The state of a server that ran once and was stopped, for tests to copy."""
    with reachable_folder() as parent:
        with EmbeddedPostgres(parent / "state"):
            pass
        yield parent / "state"


@pytest.fixture
def used_state_dir(state_dir: Path, made: Path) -> Path:
    """A copy of that state: a fifth of the time that a new cluster takes."""
    subprocess.run(["cp", "-a", made, state_dir], check=True)
    return state_dir
