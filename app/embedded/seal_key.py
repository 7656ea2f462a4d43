"""The key with which `holdfast serve` seals secrets, made once and kept beside its Postgres."""

import base64
import os
import secrets
from pathlib import Path

from app.embedded.errors import CannotStart
from app.settings import KEY_BYTES

FILE = "seal.key"


def own_key(state_dir: Path) -> str:
    """The key as the setting takes it. Called under the lock of the folder, so nobody else makes one.

    It is of no use where it can be read by others, and a lost one is never silently replaced: what was
    sealed with it could not be opened.

    Raises:
        CannotStart: the file cannot be read or made, or others may read it.
    """
    path = state_dir / FILE
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            raise CannotStart(f"{path} is a secret that others may read: chmod 600 it")
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"cannot keep the seal key in {path}: {error}") from error


def _make(path: Path) -> None:
    """Write it aside first: half a key must never be taken for one."""
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
