"""One mistake in an author's project, and the errors that carry many of them.

Everything that judges author input (endpoint.toml, decorators, discovery) collects `Problem`s and
raises once, so that one look shows all there is to mend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Problem", "ProblemsError"]


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mistake, with its place and its remedy."""

    code: str
    """Stable and machine-readable, such as `duplicate_function`; never changes with the wording."""
    message: str
    """What is wrong, with the offending value."""
    hint: str = ""
    """What to do about it; empty when the message says it already."""
    file: str = ""
    line: int = 0
    """Counted from 1; 0 when unknown."""
    key: str = ""
    """Path of the offending key in a TOML file, such as `build.profiles[0].python`."""
    detail: str = ""
    """Traceback of the author's code, shown only when asked for."""

    def __post_init__(self) -> None:
        # Texts of an author's code may hold lone surrogates, which no file or terminal takes.
        for name in ("message", "hint", "file", "key", "detail"):
            text = getattr(self, name)
            if not text.isascii():
                from gen_worker.masking import printable

                msgspec.structs.force_setattr(self, name, printable(text))

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file and self.line else ""
        place = place or (f"{self.file}: " if self.file else "")
        text = f"{self.message}: {self.hint}" if self.hint else self.message
        return f"{place}{text} [{self.code}]"


class ProblemsError(WorkerError, ValueError):
    """An author's project has mistakes; `problems` holds every one that was found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
