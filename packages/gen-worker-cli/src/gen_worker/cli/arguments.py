"""From `"red fox" steps=30 tags:='["a"]' image@cat.png` to a payload object.

    token = key ":=" json      raw JSON
          | key "@" path       the value is in a file
          | key "=" text       text, read as the field's type says
          | text               bare: the value of the primary field
    key   = a field's name, or a path into one: style.weight

Where the function's fields are known, only a token that begins with one of their names is
`key…`; anything else is bare text, so `me@example.com` and `x=y` are prompts. To give a prompt that
itself begins with a field's name, name the field: `prompt=seed=5`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.annotations import node_of
from gen_worker.cli.coercion import by_path, coerce_text, parse_json, read_value
from gen_worker.cli.failures import UsageError
from gen_worker.cli.fields import (
    OPEN,
    Field,
    children,
    element_of,
    is_file,
    members,
    payload_fields,
    primary_field,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.annotations import Node

__all__ = ["Token", "apply_tokens", "payload_fields", "split_token"]

_TOKEN = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)(:=|@|=)(.*)", re.ASCII | re.DOTALL)
_MAX_DEPTH = 64
_ENVELOPE = "_models"


class Token(msgspec.Struct, frozen=True):
    """One argument. A bare one has neither key nor operator."""

    key: str
    operator: str
    text: str

    @property
    def path(self) -> str:
        return f"$.{self.key}"

    def __str__(self) -> str:
        return f"{self.key}{self.operator}{self.text}"


def split_token(word: str, fields: Sequence[Field] | None) -> Token:
    """Tell `key=…` from bare text; without `fields` everything that looks like a key is one."""
    match = _TOKEN.fullmatch(word)
    if match is None:
        return Token("", "", word)
    head, dot, rest = match[1].partition(".")
    if fields is None or head == _ENVELOPE:
        return Token(*match.groups())
    for field in fields:
        if head in (field.name, field.python_name):
            return Token(f"{field.name}{dot}{rest}", match[2], match[3])
    return Token("", "", word)


def apply_tokens(
    words: Sequence[str],
    base: Mapping[str, Any],
    fields: Sequence[Field] | None,
    refer: Callable[[str], Any] = by_path,
) -> dict[str, Any]:
    """Return `base` with the values of all arguments set, left to right.

    Args:
        words: The arguments as typed.
        base: The payload to start from; it is not changed.
        fields: What the payload may hold; None when unknown, then types are guessed.
        refer: Gives what stands for a file in the payload, of its absolute path.

    Raises:
        UsageError: At least one argument is wrong; the error names all of them.
    """
    writer = _Writer(dict(base), fields, refer)
    problems = []
    for word in words:
        try:
            writer.apply(word)
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems), problems=tuple(problems))
    return writer.payload


class _Writer:
    """Sets one argument after the other."""

    def __init__(
        self,
        payload: dict[str, Any],
        fields: Sequence[Field] | None,
        refer: Callable[[str], Any],
    ) -> None:
        self.payload = payload
        self._refer = refer
        self._fields = fields
        self._schema = _root_schema(fields)
        self._bare: str | None = None
        self._begun_lists: set[str] = set()
        self._assigned: set[str] = set()

    def apply(self, word: str) -> None:
        if not _is_unicode(word):
            raise UsageError(f"argument {word!r} is not UTF-8 text")
        token = split_token(word, self._fields)
        if not token.operator:
            token = self._name_bare(token.text)
        try:
            node, keys = self._resolve(token.key)
            self._assign(token, node, keys)
        except UsageError as error:
            raise UsageError(f"argument {word!r}: {error}") from error
        self._assigned.add(keys[0])

    def _name_bare(self, text: str) -> Token:
        primary = primary_field(self._fields or ())
        if self._fields is None:
            raise UsageError(
                f"bare argument {text!r}: the function's fields are not known here, write field=…"
            )
        match = _TOKEN.fullmatch(text)
        if match is not None and self._is_mistyped_field(match[1], primary):
            raise UsageError(self._unknown_field(match[1], text, primary))
        if primary is None:
            raise UsageError(f"bare argument {text!r}: this function takes no fields")
        if self._bare is not None:
            raise UsageError(
                f"second bare argument {text!r}: only one is taken (as {primary.name!r}), and "
                f"{self._bare!r} is it; fields: {self._names()}"
            )
        self._bare = text
        operator = "@" if _is_local_file(text, primary) else "="
        return Token(primary.name, operator, text)

    def _is_mistyped_field(self, key: str, primary: Field | None) -> bool:
        """Whether `key=…`, which names no field, can hardly be meant as the primary's text."""
        head = key.partition(".")[0]
        return (
            primary is None
            or not _takes_text(primary)
            or self._bare is not None
            or primary.name in self._assigned
            or bool(self._close(head))
        )

    def _close(self, head: str) -> list[str]:
        import difflib

        names = [field.name for field in self._fields or ()]
        return difflib.get_close_matches(head, names, n=1, cutoff=0.8)

    def _unknown_field(self, key: str, text: str, primary: Field | None) -> str:
        head = key.partition(".")[0]
        close = self._close(head)
        hint = f", did you mean {close[0]!r}?" if close else ";"
        escape = (
            f" (to pass it as text: {primary.name}={text!r})"
            if primary is not None and _takes_text(primary)
            else ""
        )
        return f"argument {text!r}: no field {head!r}{hint} fields: {self._names()}{escape}"

    def _names(self) -> str:
        return ", ".join(field.name for field in self._fields or ()) or "none"

    def _resolve(self, key: str) -> tuple[Node, list[str]]:
        """Return the type behind a dotted key, and the key's parts."""
        keys = key.split(".")
        if not all(keys):
            raise UsageError(f"{key!r} has an empty part")
        if len(keys) > _MAX_DEPTH:
            raise UsageError(f"a key has at most {_MAX_DEPTH} parts")
        node = OPEN
        below: dict[str, Node] | None = self._schema
        for depth, part in enumerate(keys):
            if below is None or (part not in below and "*" not in below):
                raise UsageError(_no_key(keys[:depth], part, below))
            node = below[part] if part in below else below["*"]
            below = children(node)
        return node, keys

    def _assign(self, token: Token, node: Node, keys: list[str]) -> None:
        owner = self._owner(keys[:-1])
        last = keys[-1]
        if token.operator == ":=":
            owner[last] = parse_json(token.text, token.path)
            self._begun_lists.add(token.key)
            return
        element = element_of(node, 0)
        if element is None or _is_json_list_file(token, element):
            owner[last] = self._read(token, node, token.path)
            return
        items = owner.get(last) if token.key in self._begun_lists else []
        items = list(items) if isinstance(items, list) else []
        index = len(items)
        element = element_of(node, index) or OPEN
        items.append(self._read(token, element, f"{token.path}[{index}]"))
        owner[last] = items
        self._begun_lists.add(token.key)

    def _owner(self, keys: list[str]) -> dict[str, Any]:
        """Return the object that holds the last part, copied or created along the way."""
        owner = self.payload
        for key in keys:
            below = owner.get(key)
            owner[key] = dict(below) if isinstance(below, dict) else {}
            owner = owner[key]
        return owner

    def _read(self, token: Token, node: Node, path: str) -> Any:
        if token.operator == "@":
            return read_value(token.text, node, path, self._refer)
        if token.key.startswith(f"{_ENVELOPE}."):
            return token.text  # refs and tags, never numbers
        return coerce_text(token.text, node, path)


def _root_schema(fields: Sequence[Field] | None) -> dict[str, Node]:
    if fields is None:
        return {"*": OPEN}
    return {field.name: field.node for field in fields} | {_ENVELOPE: node_of(dict[str, Any])}


def _no_key(owner: list[str], part: str, below: Mapping[str, Node] | None) -> str:
    where = ".".join(owner)
    if below is None:
        return f"{where!r} has no keys of its own - at `$.{where}`"
    import difflib

    close = difflib.get_close_matches(part, below, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"no key {part!r} in {where!r}: {hint}keys: {', '.join(below)} - at `$.{where}.{part}`"


def _is_json_list_file(token: Token, element: Node) -> bool:
    """Whether `key@file` is a whole JSON list rather than one more item."""
    return token.operator == "@" and not any(
        is_file(option) or option.kind == "other" for option in members(element)
    )


def _takes_text(field: Field) -> bool:
    return any(option.type is str for option in members(field.node))


def _is_local_file(text: str, primary: Field) -> bool:
    return "://" not in text and any(is_file(option) for option in members(primary.node))


def _is_unicode(word: str) -> bool:
    """Whether JSON can hold it: foreign bytes of a command line arrive as surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
