"""Run one child and never leave it behind. Standard library alone: started with `python -I -S` to be small.

The guard obeys its standard input: a byte means "stop the child in good order", the end of the input
means that the parent is gone and the child has to go quickly. It deals out the signals of the matching
ladder until the child has ended, and ends with the child's exit code. On Linux the kernel ends the
child if the guard itself is killed.

The plan is JSON in the first argument:
    command      what to run
    pass_fds     inherited descriptors that the child gets; the guard closes its own copies
    uid, gid     who the child runs as, or null
    stop         ladder for good order: [signal name, seconds of patience] from mild to harsh
    abandon      ladder for when the parent is gone
    death_signal what the kernel sends the child if the guard dies (Linux)
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ORDERS = 0
PR_SET_PDEATHSIG = 1


def die_with(guard: int, death_signal: int) -> Callable[[], None]:
    """What the child does before it becomes its program, so that it cannot outlive `guard`."""
    # Loaded here and not after the uid has changed: Python's files may be out of the child's reach.
    tell_kernel: Callable[..., int] | None = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def before_exec() -> None:
        if tell_kernel:
            tell_kernel(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        # The guard may have died before the kernel was told.
        if os.getppid() != guard:
            os._exit(1)

    return before_exec


def start(plan: dict[str, Any]) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        plan["command"],
        stdin=subprocess.DEVNULL,
        pass_fds=plan["pass_fds"],
        user=plan["uid"],
        group=plan["gid"],
        extra_groups=None if plan["uid"] is None else [],
        start_new_session=True,
        preexec_fn=die_with(os.getpid(), signal.Signals[plan["death_signal"]]),  # noqa: PLW1509 one thread
    )
    for descriptor in plan["pass_fds"]:
        os.close(descriptor)
    return child


def watch(child: subprocess.Popen[bytes], plan: dict[str, Any], wakeup: int) -> None:
    """Return when the child has ended, or when the last rung of a ladder has not ended it."""
    inputs = [ORDERS, wakeup]
    rungs: list[tuple[str, float]] = []
    due: float | None = None
    while child.poll() is None:
        patience = None if due is None else max(0.0, due - time.monotonic())
        ready = select.select(inputs, [], [], patience)[0]
        if wakeup in ready:
            os.read(wakeup, 4096)
        if ORDERS in ready:
            order = os.read(ORDERS, 1)
            rungs, due = list(plan["stop" if order else "abandon"]), time.monotonic()
            if not order:
                inputs.remove(ORDERS)
        if due is not None and time.monotonic() >= due:
            if not rungs:
                return
            name, seconds = rungs.pop(0)
            child.send_signal(signal.Signals[name])
            due = time.monotonic() + seconds


def main() -> int:
    plan = json.loads(sys.argv[1])
    woken, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    # Handlers that do nothing, not SIG_IGN: the child would inherit that. Orders come by the input
    # alone, so that a signal to the whole group or service cannot upset the order of stopping.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    child = start(plan)
    watch(child, plan, woken)
    # What the child started in its own group must not stay behind either.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    code = child.poll()
    return 1 if code is None else code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
