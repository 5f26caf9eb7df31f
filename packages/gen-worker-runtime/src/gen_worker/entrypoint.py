"""`python -m gen_worker.entrypoint`: what the container of a worker runs.

With arguments it becomes that command instead, so that an image whose entry point it is can run
anything else that it contains.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from gen_worker.runtime.entry.settings import EntrySettings
from gen_worker.settings import CoreSettings, SettingsError, load

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

OUTPUTS = "/outputs"
"""Where images have their outputs mounted."""

_MODES = {"inference": "gen_worker.runtime.entry.inference:run"}


def main(arguments: Sequence[str] = ()) -> int:
    """Become a command, or run as `WORKER_MODE` says; return the exit code."""
    problems: list[str] = []
    entry = load(EntrySettings, on_problem=problems.append)
    try:
        _set_up(entry)
    except SettingsError as error:
        if arguments:  # never as root instead
            return _cannot_run(arguments[0], str(error), 126)
        problems.extend(error.problems)
    if arguments:
        return _become_command(arguments)
    # As the first process of a container it would not hear it at all while modules are imported.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _set_up_logging(problems)
    from gen_worker.runtime.worker.phases import log_phase

    log_phase("boot", mode=entry.mode)
    try:
        return _run(entry.mode, problems)
    except KeyboardInterrupt:
        log_phase("stopped")
        return 0


def _run(name: str, problems: list[str]) -> int:
    """Run a mode, or log why not; return the exit code."""
    from gen_worker.runtime.telemetry.logs import log_fatal

    try:
        settings = load(CoreSettings, on_problem=problems.append)
        if problems:
            raise SettingsError(tuple(problems))
        from gen_worker.modes import mode_named

        mode = mode_named(name, known=_MODES)
    except (ImportError, SettingsError) as error:
        return log_fatal("settings_load", error)
    try:
        return mode(settings)
    except Exception as error:
        return log_fatal("runtime", error)


def _set_up(entry: EntrySettings) -> None:
    """Prepare the process for any of an author's code: its user, what torch and gRPC look for.

    Raises:
        SettingsError: The user that it is to become does not exist.
    """
    from gen_worker.runtime.entry.directories import inductor_cache_dir

    if entry.user and os.geteuid() == 0:
        from gen_worker.runtime.entry.privileges import become, find_user, owner_or

        user = owner_or(OUTPUTS, find_user(entry.user))
        os.environ["HOME"] = user.home
        cache_dir = load(CoreSettings, on_problem=_told_later).cache_dir
        become(user, (OUTPUTS, user.home, cache_dir))
    # Before gRPC is imported: by default it tells of each connection that did not end in order.
    os.environ["GRPC_VERBOSITY"] = entry.grpc_verbosity
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = entry.cuda_allocator
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = entry.inductor_cache_dir or inductor_cache_dir()


def _told_later(problem: str) -> None:
    """Pass over it: the settings are read again once their defaults are this user's."""


def _become_command(arguments: Sequence[str]) -> int:
    try:
        os.execvp(arguments[0], list(arguments))
    except OSError as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        return _cannot_run(arguments[0], error.strerror or str(error), code)


def _cannot_run(command: str, why: str, code: int) -> int:
    print(f"gen_worker.entrypoint: cannot run {command!r}: {why}", file=sys.stderr)
    return code


def _set_up_logging(problems: list[str]) -> None:
    from gen_worker.runtime.telemetry.logs import install_logging
    from gen_worker.runtime.telemetry.settings import TelemetrySettings

    install_logging(load(TelemetrySettings, on_problem=problems.append).log_format)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
