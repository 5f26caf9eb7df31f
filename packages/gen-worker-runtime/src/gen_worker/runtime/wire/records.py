"""The base of all messages and of what they hold."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

__all__ = ["Record"]


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A value of the protocol; its fields are what the wire says, empty where it says nothing.

    Its `repr` is fit for a log: without secrets, and of contents only how many bytes there are.
    """

    secrets: ClassVar[frozenset[str]] = frozenset()
    """Fields that no log may show."""

    def __repr__(self) -> str:
        shown = (
            f"{name}={'***' if name in self.secrets else _shown(value)}"
            for name in self.__struct_fields__
            if (value := getattr(self, name)) or value is False
        )
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)
