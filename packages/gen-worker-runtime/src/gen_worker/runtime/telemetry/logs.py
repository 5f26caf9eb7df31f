"""Log lines of a worker: text or JSON, and never a credential."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from gen_worker.diagnostics import sanitize
from gen_worker.masking import printable, without_credentials

if TYPE_CHECKING:
    from gen_worker.runtime.telemetry.settings import LogFormat

__all__ = ["JsonFormatter", "TextFormatter", "install_logging", "log_fatal"]

_STRUCTURED = ("worker.startup.phase ", "worker.fatal ")
"""Lines that platforms look for; they are written like this in either format."""

_log = logging.getLogger("gen_worker.worker")
_CHATTY = ("httpx", "httpcore")
"""Log every request they make as something to know; their warnings are ours."""
_encode = msgspec.json.Encoder(enc_hook=str).encode
# What a record has by itself; anything else was given as `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def install_logging(
    log_format: LogFormat = "text", *, stream: TextIO | None = None, level: int = logging.INFO
) -> logging.Handler:
    """Write what is logged in this process to a stream; for programs, not for libraries.

    Args:
        log_format: `text`, or `json` for one object a line.
        stream: By default stderr.
        level: Of the least important lines to write.

    Returns:
        The handler, for whoever wants to remove it from the root logger.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    return handler


def log_fatal(phase: str, error: BaseException, *, exit_code: int = 1) -> int:
    """Write the line `worker.fatal {json}` and return the exit code.

    Args:
        phase: What was being done: `settings_load`, `import`, `runtime`, …
        error: What stopped it.
        exit_code: That the process will end with.
    """
    import traceback

    record = {
        "phase_context": phase,
        "exception_class": type(error).__name__,
        "exception_message": str(error),
        "traceback": "".join(traceback.format_exception(error))[-2000:],
        "exit_code": exit_code,
    }
    _log.critical("worker.fatal %s", _encode(sanitize(record)).decode())
    return exit_code


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,000 INFO gen_worker.worker: …`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        text = message if message.startswith(_STRUCTURED) else super().format(record)
        return without_credentials(printable(text))


class JsonFormatter(logging.Formatter):
    """One JSON object: `timestamp`, `level`, `logger`, `message`, and what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        message = without_credentials(printable(record.getMessage()))
        if message.startswith(_STRUCTURED):
            return message
        line: dict[str, Any] = {
            "timestamp": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if record.exc_info:
            line["traceback"] = without_credentials(
                printable(self.formatException(record.exc_info))
            )
        extra = {name: value for name, value in vars(record).items() if name not in _OWN}
        if extra:
            line |= {name: value for name, value in sanitize(extra).items() if name not in line}
        return _encode(line).decode()
