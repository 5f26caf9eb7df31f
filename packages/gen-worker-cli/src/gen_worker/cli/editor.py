"""Line editing for `gen-worker repl` at a terminal: history and completion."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.output import create_output

from gen_worker.cli.arguments import payload_fields
from gen_worker.cli.fields import children, is_enum, members

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from gen_worker.annotations import Node
    from gen_worker.cli.session import Session

__all__ = ["SessionCompleter", "edited_lines"]

_COMMANDS = (":use", ":functions", ":schema", ":help", ":quit")
_HISTORY = os.path.join(".gen-worker-run", "repl-history")


def edited_lines(session: Session) -> Iterator[str]:
    """Yield what is typed; Ctrl-C clears the line, Ctrl-D ends."""
    prompt: PromptSession[str] = PromptSession(
        history=_history(),
        completer=SessionCompleter(session),
        complete_while_typing=False,
        output=create_output(stdout=sys.stderr),
    )
    while True:
        try:
            yield prompt.prompt(session.prompt)
        except KeyboardInterrupt:
            print("(:quit or Ctrl-D leaves)", file=sys.stderr)
        except EOFError:
            return


def _history() -> History:
    try:
        os.makedirs(os.path.dirname(_HISTORY), exist_ok=True)
    except OSError:
        return InMemoryHistory()
    return FileHistory(_HISTORY)


class SessionCompleter(Completer):
    """Completes commands, function names, fields, and the values of literals and enums."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        line = document.text_before_cursor.lstrip()
        word = line.rpartition(" ")[2]
        for option in self._options(line, word):
            if option.startswith(word):
                yield Completion(option, start_position=-len(word))

    def _options(self, line: str, word: str) -> list[str]:
        if line.startswith(":"):
            if not line.startswith(":use "):
                return list(_COMMANDS)
            return [spec.registered_name for spec in self._session.endpoint.functions]
        if self._session.active is None:
            return []
        keys = {field.name: field.node for field in payload_fields(self._session.active)}
        key, equals, _ = word.partition("=")
        if equals:
            node = _descend(keys, key)
            return [f"{key}={value}" for value in _values(node)] if node else []
        owner, dot, _ = key.rpartition(".")
        if dot:
            node = _descend(keys, owner)
            below = (children(node) or {}) if node else {}
            return [f"{owner}.{name}=" for name in below if name != "*"]
        return [f"{name}=" for name in keys]


def _descend(keys: dict[str, Node], path: str) -> Node | None:
    below: dict[str, Node] | None = keys
    node: Node | None = None
    for part in path.split("."):
        node = (below or {}).get(part)
        if node is None:
            return None
        below = children(node)
    return node


def _values(node: Node) -> list[str]:
    values: list[Any] = []
    for option in members(node):
        if get_origin(option.type) is Literal:
            values += get_args(option.type)
        elif is_enum(option):
            values += [member.value for member in option.type]
        elif option.type is bool:
            values += ["true", "false"]
    return [str(value) for value in values if value is not None]
