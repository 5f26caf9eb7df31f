"""The data folder: what is where, and who uses it now."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.cli.failures import UsageError
from gen_worker.cli.platform.identity import is_running, started_at
from gen_worker.runtime.ndjson.sidecar import read_sidecar, write_sidecar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["DataFolder", "KeptProcess", "PlatformFile"]

_HOLDER_S = 2.0
"""What is read of the last holder of a folder is not this one's."""


class KeptProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a platform."""

    name: str
    kind: str
    """`hub`, `scheduler` or `worker`."""
    pid: int
    began: str
    """As `identity.started_at` tells it."""
    started_at: float
    state: str = "running"
    """`starting`, `running`, `draining`."""
    endpoint: str = ""
    release_id: str = ""
    worker_id: str = ""
    restarts: int = 0

    @property
    def is_running(self) -> bool:
        return is_running(self.pid, self.began)


class PlatformFile(msgspec.Struct, frozen=True, kw_only=True):
    """What `platform.json` says of a running `gen-worker up`."""

    pid: int
    began: str
    version: str
    started_at: float
    http: str = ""
    """URL of the scheduler."""
    hub: str = ""
    """URL of the hub; empty without one."""
    processes: tuple[KeptProcess, ...] = ()

    @property
    def is_running(self) -> bool:
        return is_running(self.pid, self.began)


class DataFolder:
    """Paths below one folder. Making one touches nothing."""

    def __init__(self, path: str = "") -> None:
        """Name the folder.

        Args:
            path: As the user gave it; empty takes GEN_WORKER_DATA_DIR, else the usual place.
        """
        self.path = os.path.abspath(os.path.expanduser(path)) if path else _usual_folder()
        self.logs = os.path.join(self.path, "logs")
        self.hub = os.path.join(self.path, "hub")
        self.cache = os.path.join(self.path, "cache")
        self.environments = os.path.join(self.path, "environments.json")
        self.presence = os.path.join(self.path, "platform.json")
        self.scheduler_presence = os.path.join(self.path, "scheduler.json")
        self._lock = os.path.join(self.path, "platform.lock")
        self._token = os.path.join(self.path, "scheduler", "token")

    def claim(self) -> int:
        """Take the folder for this process, for as long as the descriptor is open.

        Raises:
            UsageError: Somebody has it, or it cannot be used.
        """
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(
                f"cannot keep data in {self.path!r}: {error.strerror}; name another folder with "
                "--data"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise UsageError(
                f"`gen-worker up` runs on {self.path!r} already{holder}: use that one "
                "(`gen-worker ps`), stop it with Ctrl-C, or name another folder with --data"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return descriptor

    def read(self) -> PlatformFile | None:
        """Return what the last platform announced, running or not."""
        try:
            with open(self.presence, "rb") as file:
                return msgspec.json.decode(file.read(), type=PlatformFile)
        except (OSError, msgspec.MsgspecError):
            return None

    def announce(self, platform: PlatformFile) -> None:
        write_sidecar(self.presence, msgspec.to_builtins(platform))

    def withdraw(self) -> None:
        with suppress(OSError):
            os.unlink(self.presence)

    def leftovers(self) -> tuple[KeptProcess, ...]:
        """Return what still runs of a platform whose supervisor has gone."""
        last = self.read()
        return tuple(one for one in last.processes if one.is_running) if last else ()

    def scheduler(self) -> dict[str, Any]:
        """Return what the running scheduler of this folder announced; empty without one."""
        found = read_sidecar(self.scheduler_presence)
        pid, began = found.get("pid"), found.get("began")
        is_there = isinstance(pid, int) and isinstance(began, str) and is_running(pid, began)
        return found if is_there else {}

    def token(self) -> str:
        """Return what may do everything at this folder's scheduler; empty where none is needed."""
        from gen_worker.runtime.scheduler.settings import SchedulerSettings
        from gen_worker.settings import load

        chosen = load(SchedulerSettings).token
        if chosen:
            return chosen
        try:
            with open(self._token, encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return ""

    @property
    def token_file(self) -> str:
        """Where that is, if it is in a file."""
        return self._token if os.path.exists(self._token) else ""

    def log_files(self) -> Iterable[str]:
        """Return the names that something was logged under."""
        try:
            names = os.listdir(self.logs)
        except OSError:
            return ()
        return tuple(sorted(name.removesuffix(".log") for name in names if name.endswith(".log")))

    def interpreters(self) -> Iterator[tuple[str, str]]:
        """Return the interpreters of environments, by name."""
        yield from _read_names(self.environments).items()

    def name_environment(self, name: str, interpreter: str) -> None:
        """Let a name stand for an interpreter, from now on and for later platforms."""
        known = _read_names(self.environments)
        if known.get(name) != interpreter:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            write_sidecar(self.environments, {**known, name: interpreter})


def _holder(descriptor: int) -> str:
    """Say who has a lock; who has just taken it writes its number at once."""
    deadline = time.monotonic() + _HOLDER_S
    while time.monotonic() < deadline:
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        if text.isdecimal() and started_at(int(text)):
            return f", as process {text}"
        time.sleep(0.01)
    return ""


def _usual_folder() -> str:
    from gen_worker.runtime.scheduler.settings import SchedulerSettings
    from gen_worker.settings import load

    return load(SchedulerSettings).folder


def _read_names(path: str) -> dict[str, str]:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError):
        return {}
