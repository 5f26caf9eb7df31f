"""Writes the module: Structs, and for each endpoint a blocking and an async class."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.client.stubs.names import (
    class_name,
    docstring,
    literal,
    members,
    method_name,
    unique,
    without_texts,
)
from gen_worker.client.stubs.types import FILES, Direction, Shapes, has_required

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["generate"]

_HEADER = '''\
"""Typed clients of {endpoints}.

Written by `gen-worker client generate`: do not change it, write it again.
"""

from __future__ import annotations
'''
_OWN = {"Any", "AsyncClient", "AsyncGenerator", "Callable", "Client", "Generator", "Literal"} | {
    "Path",
    "StreamEvent",
}
_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class _Function(NamedTuple):
    """One method."""

    method: str
    target: str
    payload: str
    """Annotation of the payload."""
    default: str
    """What stands for no payload; empty where one has to be given."""
    output: str
    """Annotation of the result, or of each item."""
    is_streamed: bool
    text: str


class _Endpoint(NamedTuple):
    owner: str
    name: str
    class_name: str
    async_name: str
    functions: list[_Function]

    @property
    def path(self) -> str:
        return "/".join(part for part in (self.owner, self.name) if part)


def generate(functions: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of a typed module for functions; the same for the same functions.

    Args:
        functions: As `Client.functions` lists them.
    """
    ordered = sorted(functions, key=lambda f: (_text(f, "owner"), _text(f, "endpoint"), f["name"]))
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for function in ordered:
        groups.setdefault((_text(function, "owner"), _text(function, "endpoint")), []).append(
            function
        )
    taken = {*_OWN, *FILES}
    names = {key: _class_names(*key, taken) for key in groups}
    shapes = Shapes(taken)
    endpoints = [
        _Endpoint(*key, *names[key], _methods(*key, members, shapes))
        for key, members in groups.items()
    ]
    body = shapes.lines()
    for endpoint in endpoints:
        body += _class(endpoint, is_async=False) + _class(endpoint, is_async=True)
    shown = ", ".join(endpoint.path or "one host" for endpoint in endpoints) or "no function"
    header = _HEADER.replace("{endpoints}", shown).splitlines()
    return "\n".join([*header, *_imports(body, shapes.files), *body, ""])


def _class_names(owner: str, endpoint: str, taken: set[str]) -> tuple[str, str]:
    name = class_name(endpoint or "Host")
    if {name, f"Async{name}"} & taken:
        name = class_name(owner, endpoint or "Host")
    number = 2
    while {name, f"Async{name}"} & taken:
        name = f"{class_name(owner, endpoint or 'Host')}{number}"
        number += 1
    taken |= {name, f"Async{name}"}
    return name, f"Async{name}"


def _methods(
    owner: str, endpoint: str, members: list[Mapping[str, Any]], shapes: Shapes
) -> list[_Function]:
    found: list[_Function] = []
    for function in members:
        name = function["name"]
        method = unique(method_name(name), {other.method for other in found})
        target = "/".join(part for part in (owner, endpoint, name) if part)
        found.append(_function(function, method, target, shapes))
    return found


def _function(function: Mapping[str, Any], method: str, target: str, shapes: Shapes) -> _Function:
    taken_in, put_out = function.get("input_schema"), function.get("output_schema")
    is_streamed = function.get("output_mode") == "incremental"
    title = class_name(method)
    payload = "dict[str, Any]"
    if isinstance(taken_in, dict):
        payload = shapes.annotation(taken_in, Direction(True, title, "Payload"))
    output = "Any"
    if isinstance(put_out, dict):
        output = shapes.annotation(
            put_out, Direction(False, title, "Item" if is_streamed else "Result")
        )
    default = ""
    if not isinstance(taken_in, dict):
        default = "{}"
    elif not has_required(taken_in) and payload.isidentifier():
        default = f"{payload}()"
    text = _text(function, "description") or _text(function, "label")
    return _Function(method, target, payload, default, output, is_streamed, text)


def _text(function: Mapping[str, Any], key: str) -> str:
    value = function.get(key)
    return value if isinstance(value, str) else ""


def _imports(body: list[str], files: set[str]) -> list[str]:
    """Return the imports of what is used."""
    words = set(_CLASS.findall(without_texts("\n".join(body))))
    first = {word.partition(".")[0] for word in words}
    standard = [f"import {name}" for name in ("datetime", "decimal", "uuid") if name in first]
    abc = [name for name in ("AsyncGenerator", "Callable", "Generator") if name in first]
    if abc:
        standard.append(f"from collections.abc import {', '.join(abc)}")
    if "Path" in first:
        standard.append("from pathlib import Path")
    typing = [name for name in ("Any", "Literal") if name in first]
    if typing:
        standard.append(f"from typing import {', '.join(typing)}")
    own = ["from gen_worker.client import AsyncClient, Client, StreamEvent"] if abc else []
    if files:
        own.append(f"from gen_worker.types import {', '.join(sorted(files))}")
    blocks = [standard, ["import msgspec"] if "msgspec" in first else [], own]
    return [line for block in blocks if block for line in ("", *block)]


def _class(endpoint: _Endpoint, *, is_async: bool) -> list[str]:
    name = endpoint.async_name if is_async else endpoint.class_name
    client = "AsyncClient" if is_async else "Client"
    told = f"The functions of {endpoint.path or 'one host'}{', to be awaited' if is_async else ''}."
    lines = [
        "",
        "",
        f"class {name}:",
        *docstring(told, "    "),
        "",
        f'    def __init__(self, client: {client}, *, tag: str = "") -> None:',
        '        """Call through a client.',
        "",
        "        Args:",
        "            client: Of the host.",
        "            tag: Of the release; empty means the one in production.",
        '        """',
        "        self._client = client",
        '        self._tag = f":{tag}" if tag else ""',
    ]
    for function in endpoint.functions:
        lines += ["", *_method(function, is_async=is_async)]
    return lines


def _method(function: _Function, *, is_async: bool) -> list[str]:
    output = function.output
    wait = ""
    if function.is_streamed:
        returned = (
            f"AsyncGenerator[{output}, None]" if is_async else f"Generator[{output}, None, None]"
        )
        define, call, option = "def", "stream", "item_type"
    else:
        returned, call, option = output, "run", "result_type"
        define = "async def" if is_async else "def"
        wait = "await " if is_async else ""
    payload = f"payload: {function.payload}"
    given = "payload"
    if function.default:
        payload = f"payload: {function.payload} | None = None"
        given = f"{function.default} if payload is None else payload"
    is_class = _CLASS.fullmatch(output) is not None and output not in ("Any", "None")
    is_class = is_class or (output.startswith(("list[", "dict[")) and len(members(output)) == 1)
    begin = "return" if is_class or output == "Any" else f"output: {returned} ="
    lines = [
        f"    {define} {function.method}(",
        "        self,",
        f"        {payload},",
        "        /,",
        "        *,",
        "        timeout_s: float | None = None,",
        "        on_event: Callable[[StreamEvent], object] | None = None,",
        f"    ) -> {returned}:",
        *docstring(function.text, "        "),
        f"        {begin} {wait}self._client.{call}(",
        f"            {literal(function.target)} + self._tag,",
        f"            {given},",
        *([f"            {option}={output},"] if output not in ("Any", "None") else []),
        "            timeout_s=timeout_s,",
        "            on_event=on_event,",
        "        )",
    ]
    return lines if begin == "return" else [*lines, "        return output"]
