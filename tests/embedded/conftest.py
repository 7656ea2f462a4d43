import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from app.embedded.postgres import EmbeddedPostgres


def reachable_folder() -> Path:
    """Pytest's own folders are closed to the account that runs Postgres for root."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    folder.chmod(0o755)
    return folder


@pytest.fixture
def state_dir() -> Generator[Path]:
    """A folder yet to be created."""
    parent = reachable_folder()
    yield parent / "state"
    shutil.rmtree(parent)


@pytest.fixture(scope="session")
def made() -> Generator[Path]:
    """The state of a server that ran once and was stopped, for tests to copy."""
    parent = reachable_folder()
    with EmbeddedPostgres(parent / "state"):
        pass
    yield parent / "state"
    shutil.rmtree(parent)


@pytest.fixture
def used_state_dir(state_dir: Path, made: Path) -> Path:
    """A copy of that state: a fifth of the time that a new cluster takes."""
    subprocess.run(["cp", "-a", made, state_dir], check=True)
    return state_dir
