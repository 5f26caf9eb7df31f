"""What a process writes, cut into blocks that belong together and told in words."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

__all__ = ["Block", "Blocks", "told"]

_MAX_LINE_BYTES = 16_384
_MAX_BLOCK_LINES = 500
_TRACEBACK = "Traceback (most recent call last):"
_GROUP_HEAD = "Exception Group Traceback (most recent call last):"
_LINKS = (
    "During handling of the above exception",
    "The above exception was the direct cause",
)
_LOGGED = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) ([\w.]+): (.*)",
    re.DOTALL,
)
_PHASE, _FATAL = "worker.startup.phase ", "worker.fatal "
_QUIET_PHASES = frozenset(
    "boot manifest_loaded cache_preflight_started cache_preflight_ok scheduler_connecting "
    "registered models_downloading".split()
)
"""Steps that always go well: they are in the log file, nobody needs to see them pass by."""
_SAYS_IT_ALL = frozenset(("SettingsError", "DiscoveryError", "ListenError"))
"""Errors whose sentence is enough: no code is at fault."""
_QUIET_FACTS = frozenset(
    "phase status pid uid gid cwd worker_id scheduler_addr elapsed_ms traceback".split()
)


class Block(NamedTuple):
    """Lines of one process that are shown together."""

    lines: tuple[str, ...]


class Blocks:
    """Cuts the output of one process into lines; a traceback stays together."""

    def __init__(self) -> None:
        self._rest = b""
        self._block: list[str] = []
        self._state = "outside"
        """`outside` of a traceback; `inside`; or `after` the line that names its exception."""

    @property
    def is_open(self) -> bool:
        """Whether something waits for what follows; `flush` gives it away."""
        return bool(self._rest or self._block)

    def feed(self, data: bytes) -> list[Block]:
        """Return what is complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        blocks = [block for line in lines for block in self._take(_text(line))]
        while len(self._rest) > _MAX_LINE_BYTES:
            line, self._rest = self._rest[:_MAX_LINE_BYTES], self._rest[_MAX_LINE_BYTES:]
            blocks += self._take(_text(line))
        return blocks

    def flush(self) -> list[Block]:
        """Return what was held back; nothing follows that belongs to it."""
        rest, self._rest = self._rest, b""
        blocks = self._take(_text(rest)) if rest else []
        return [*blocks, *self._close()]

    def _take(self, line: str) -> list[Block]:
        if self._state == "outside" or not self._continues(line):
            closed = self._close()
            if line.startswith(_TRACEBACK) or _GROUP_HEAD in line:
                # All lines of a group are indented, its exceptions too.
                self._state = "after" if _GROUP_HEAD in line else "inside"
                self._block.append(line)
                return closed
            return [*closed, Block((line,))]
        self._block.append(line)
        return self._close() if len(self._block) >= _MAX_BLOCK_LINES else []

    def _continues(self, line: str) -> bool:
        """Whether a line belongs to the traceback that is open."""
        if line[:1] in (" ", "\t") or not line:
            return True
        if line.startswith((*_LINKS, _TRACEBACK)):
            self._state = "inside"
            return True
        if self._state == "inside":
            self._state = "after"  # the exception; its message may have more lines, which are lost
            return True
        return False

    def _close(self) -> list[Block]:
        block, self._block, self._state = self._block, [], "outside"
        while block and not block[-1]:
            block.pop()
        return [Block(tuple(block))] if block else []


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").decode("utf-8", "replace")


def told(line: str) -> tuple[str, str] | None:
    """Return a line in words, and its level; None for one that nobody needs to see.

    What is logged as JSON or as text loses its time and its logger's name: who reads it sees it
    happen.
    """
    if line.startswith(_PHASE):
        return _told_phase(_object(line.removeprefix(_PHASE)), line)
    if line.startswith(_FATAL):
        return _told_fatal(_object(line.removeprefix(_FATAL)), line)
    if line.startswith('{"') and line.endswith("}"):
        return _told_record(_object(line), line)
    found = _LOGGED.fullmatch(line)
    if found:
        level, _, message = found.groups()
        return told(message) if message.startswith((_PHASE, _FATAL)) else (message, level.lower())
    return line, "info"


def _object(text: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeError):
        return {}


def _told_phase(facts: dict[str, object], line: str) -> tuple[str, str] | None:
    phase, status = str(facts.get("phase", "")), facts.get("status")
    if not phase:
        return line, "info"
    if status == "ok" and phase in _QUIET_PHASES:
        return None
    more = [f"{name} {value}" for name, value in facts.items() if name not in _QUIET_FACTS]
    words = phase.replace("_", " ") + (f" ({', '.join(more)})" if more else "")
    return words, "info" if status in ("ok", "starting") else "error"


def _told_fatal(facts: dict[str, object], line: str) -> tuple[str, str]:
    if "exception_message" not in facts:
        return line, "critical"
    where = str(facts.get("phase_context", "")).replace("_", " ")
    error = f"{facts.get('exception_class')}: {facts['exception_message']}"
    trace = str(facts.get("traceback", "")).rstrip("\n")
    is_shown = facts.get("exception_class") not in _SAYS_IT_ALL
    return f"failed at {where}: {error}" + (f"\n{trace}" if trace and is_shown else ""), "critical"


def _told_record(facts: dict[str, object], line: str) -> tuple[str, str] | None:
    message = facts.get("message")
    if not isinstance(message, str) or "level" not in facts:
        return line, "info"
    if message.startswith((_PHASE, _FATAL)):
        return told(message)
    trace = str(facts.get("traceback", "")).rstrip("\n")
    return message + (f"\n{trace}" if trace else ""), str(facts["level"]).lower()
