"""Reads plain command lines, so that most calls need no argparse.

Loading argparse and laying out its parser takes 8 ms of a short command. What is read here is what
cannot be misread: exact option names, each with a value of its own, and other words that do not
begin with a dash. The rest, mistakes and help above all, is left to argparse, which reads these
lines to the same result.
"""

from __future__ import annotations

from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

__all__ = ["PlainParser"]

_TOKENS = "tokens"
_DEFAULTS = {"store_true": False, "store_false": True}


class PlainParser:
    """Stands in for an `argparse.ArgumentParser` in a command's `configure`."""

    def __init__(self) -> None:
        self._options: dict[str, _Option] = {}
        self._defaults: dict[str, Any] = {}
        self._positionals: list[str] = []
        self._takes_tokens = False
        self._is_plain = True

    def add_argument(
        self,
        *names: str,
        dest: str | None = None,
        action: str = "store",
        default: Any = ...,
        type: Callable[[str], object] = str,
        **layout: object,
    ) -> None:
        if names == (_TOKENS,) and layout.get("nargs") == "*":
            self._takes_tokens = True
        elif "choices" in layout or "nargs" in layout:
            self._is_plain = False
        elif not names[0].startswith("-"):
            self._positionals += names
        else:
            long = next(name for name in names if name.startswith("--"))
            option = _Option(dest or long[2:].replace("-", "_"), action, type)
            self._options.update(dict.fromkeys(names, option))
            self._defaults.setdefault(
                option.dest, _DEFAULTS.get(action) if default is ... else default
            )

    def add_mutually_exclusive_group(self) -> PlainParser:
        """Take the group's options like any other: `parse` refuses a second word for one value."""
        return self

    def parse(self, words: Sequence[str]) -> SimpleNamespace | None:
        """Return what argparse would, or None where that has to be asked."""
        values = dict(self._defaults)
        tokens: list[str] = []
        given: set[str] = set()
        rest = iter(words)
        for word in rest:
            option = self._options.get(word)
            if option is None:
                if word.startswith("-") and word != "-":
                    return None
                tokens.append(word)
            elif option.dest in given or not option.read(values, rest):
                return None
            else:
                given.add(option.dest)
        count = len(self._positionals)
        fits = len(tokens) >= count if self._takes_tokens else len(tokens) == count
        if not self._is_plain or not fits:
            return None
        values.update(zip(self._positionals, tokens, strict=False))
        if self._takes_tokens:
            values[_TOKENS] = tokens[count:]
        return SimpleNamespace(**values)


class _Option:
    """One option. A plain class, as `gen_worker.cli.command.Command` is one."""

    __slots__ = ("action", "dest", "type")

    def __init__(self, dest: str, action: str, type: Callable[[str], object]) -> None:
        self.dest = dest
        self.action = action
        self.type = type

    def read(self, values: dict[str, Any], rest: Iterator[str]) -> bool:
        """Set the value, taking the next word where one is needed; False if that is not plain."""
        if self.action in _DEFAULTS:
            values[self.dest] = not _DEFAULTS[self.action]
            return True
        word = next(rest, "-")
        if self.action != "store" or word.startswith("-"):
            return False
        try:
            values[self.dest] = self.type(word)
        except ValueError:
            return False
        return True
