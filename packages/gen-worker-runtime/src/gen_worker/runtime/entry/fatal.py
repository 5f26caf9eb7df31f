"""The last line of a worker that cannot go on."""

from __future__ import annotations

import logging
import traceback

import msgspec

__all__ = ["log_fatal"]

_log = logging.getLogger("gen_worker.worker")


def log_fatal(phase: str, error: BaseException, *, exit_code: int = 1) -> int:
    """Write the log line `worker.fatal {json}` and return the exit code.

    Args:
        phase: What was being done: `settings_load`, `import`, `runtime`, …
        error: What stopped it.
        exit_code: That the process will end with.
    """
    record = {
        "phase_context": phase,
        "exception_class": type(error).__name__,
        "exception_message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "exit_code": exit_code,
    }
    _log.error("worker.fatal %s", msgspec.json.encode(record).decode())
    return exit_code
