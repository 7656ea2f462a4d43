"""Locks that the kernel drops when their holder dies, however it dies."""

import errno
import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from app.embedded.errors import CannotStart


@contextmanager
def only_one(state_dir: Path) -> Generator[None]:
    """Be the only `serve` on a state folder.

    Raises:
        CannotStart: another one runs; the message names its process id.
    """
    make_state_dir(state_dir)
    with _opened(state_dir / "serve.lock") as lock:
        if not _taken(lock):
            other = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
            raise CannotStart(
                f"another holdfast (pid {other}) runs on {state_dir}: stop it or choose another"
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield


@contextmanager
def held(path: Path, *, patience_seconds: float) -> Generator[int]:
    """Hold a lock and get its descriptor. A child that inherits it holds the lock too, until it ends.

    Raises:
        CannotStart: it is still held when the patience is over.
    """
    with _opened(path) as lock:
        end = time.monotonic() + patience_seconds
        while not _taken(lock):
            if time.monotonic() > end:
                raise CannotStart(f"{path} is still held by another process: choose another state_dir")
            time.sleep(0.02)
        yield lock


def make_state_dir(state_dir: Path) -> None:
    """Create the folder where it is missing. Root's account must be able to pass through it."""
    try:
        state_dir.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"cannot create state_dir {state_dir}: {error.strerror}") from error


@contextmanager
def _opened(path: Path) -> Generator[int]:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotStart(f"cannot write to {path}: {error.strerror}") from error
    try:
        yield lock
    finally:
        os.close(lock)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True
