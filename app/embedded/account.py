"""Who runs a server that must not be root."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.embedded.errors import CannotStart


@dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged user that root drops to."""

    name: str
    uid: int
    gid: int

    def popen_arguments(self) -> dict[str, Any]:
        """What makes `subprocess` run a program as this user, with no group beyond its own."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def for_data(data: Path) -> Account | None:
    """Who runs Postgres on this data folder: None for ourselves, an account where we are root.

    Existing data keeps its owner, so that a `postgres` user that is installed later changes nothing.

    Raises:
        CannotStart: there is nobody who could.
    """
    uid = os.geteuid()
    owner = data.stat().st_uid if data.exists() else None
    if uid != 0:
        if owner not in {None, uid}:
            raise CannotStart(
                f"{data} belongs to {_name(owner)}; run as that user or choose another state_dir"
            )
        if not _entry(uid):
            raise CannotStart(
                f"user id {uid} has no entry in the password database, which Postgres needs: set database_url"
            )
        return None
    candidates = ["postgres", "nobody"] if owner is None else [owner]
    for candidate in candidates:
        if (entry := _entry(candidate)) and entry.pw_uid != 0:
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise CannotStart("Postgres refuses to run as root and there is no user to run it as: set database_url")


def _entry(user: int | str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        return None


def _name(uid: int | None) -> str:
    entry = _entry(uid) if uid is not None else None
    return entry.pw_name if entry else f"user id {uid}"
