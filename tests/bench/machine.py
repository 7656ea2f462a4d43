"""Where and of what a run was: figures of two machines are not to be compared, their ratios may be."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from tests.bench.stack import Stack
from tests.embedded.processes import ROOT


def machine(stack: Stack) -> dict[str, Any]:
    (row,) = stack.execute("select current_setting('server_version') as version")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "postgres": row["version"],
    }


def commit() -> str:
    """Short, with a plus where the tree has more than it."""
    head = _git("rev-parse", "--short", "HEAD")
    return head + ("+" if head and _git("status", "--porcelain", "--untracked-files=no") else "")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _git(*words: str) -> str:
    """What git says; nothing where there is none, or no repository."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
