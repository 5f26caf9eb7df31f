"""The difference between two locks, and what of it breaks callers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.manifest_changes import Change, changes_between

Schema = dict[str, Any]


def lock(*functions: dict[str, Any], **root: object) -> dict[str, Any]:
    return {"functions": list(functions), **root}


def paint(**keys: object) -> dict[str, Any]:
    return {"name": "paint", **keys}


def record(*required: str, **properties: object) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def between(old: Schema, new: Schema, key: str = "input_schema") -> list[tuple[str, str, bool]]:
    changes = changes_between(lock(paint(**{key: old})), lock(paint(**{key: new})))
    return [(c.where.removeprefix(f"paint.{key}"), c.what, c.is_breaking) for c in changes]


def test_equal_locks_have_no_changes_whatever_sdk_built_them() -> None:
    one = lock(paint(label="x"), sdk_version="1", content_sha256="a")
    assert changes_between(one, one | {"sdk_version": "2", "content_sha256": "b"}) == []


def test_functions_come_and_go() -> None:
    old, new = lock(paint(), {"name": "draw"}), lock(paint(), {"name": "etch"})
    assert changes_between(old, new) == [
        Change("draw", "function removed", True),
        Change("etch", "function added", False),
    ]


def test_order_alone_is_a_change() -> None:
    old, new = lock(paint(), {"name": "draw"}), lock({"name": "draw"}, paint())
    assert changes_between(old, new) == [Change("functions", "their order changed")]


def test_plain_keys() -> None:
    old = lock(paint(timeout_ms=1, output_mode="single"), endpoint_name="a")
    new = lock(paint(label="x", output_mode="incremental"), endpoint_name="b")
    assert [str(change) for change in changes_between(old, new)] == [
        "endpoint_name: changed from 'a' to 'b'",
        "paint.timeout_ms: removed",
        "paint.output_mode: changed from 'single' to 'incremental' (breaking)",
        "paint.label: added",
    ]


TEXT: Schema = {"type": "string"}


@pytest.mark.parametrize(
    ("old", "new", "breaks_input", "breaks_output"),
    [
        (record(), record(a=TEXT), False, False),
        (record(), record("a", a=TEXT), True, False),
        (record(a=TEXT), record(), True, True),
        (record(a=TEXT), record("a", a=TEXT), True, False),
        (record("a", a=TEXT), record(a=TEXT), False, True),
        (record(a=TEXT), record(a={"type": "integer"}), True, True),
        (record(a=TEXT), record(a={**TEXT, "default": "x"}), False, False),
        (record(a={"enum": ["x", "y"]}), record(a={"enum": ["x"]}), True, False),
        (record(a={"enum": ["x"]}), record(a={"enum": ["x", "y"]}), False, True),
        (record(a={"minimum": 1}), record(a={"minimum": 2}), True, False),
        (record(a={"minimum": 2}), record(a={"minimum": 1}), False, True),
        (record(a={"maximum": 1}), record(a={"maximum": 2}), False, True),
        (record(a={"maximum": 2}), record(a={"maximum": 1}), True, False),
        (record(a={}), record(a={"maximum": 1}), True, False),
        (record(a={"maximum": 1}), record(a={}), False, True),
        (record(a={"items": TEXT}), record(a={"items": {"type": "integer"}}), True, True),
        (record(a={"pattern": "a"}), record(a={"pattern": "b"}), True, True),
        ({**record(), "description": "a"}, {**record(), "description": "b"}, False, False),
    ],
)
def test_direction_decides_what_breaks(
    old: Schema, new: Schema, breaks_input: bool, breaks_output: bool
) -> None:
    for key, breaks in (("input_schema", breaks_input), ("output_schema", breaks_output)):
        ((_, _, is_breaking),) = between(old, new, key)
        assert is_breaking is breaks


def test_references_are_followed_and_cycles_end() -> None:
    def tree(leaf: Schema) -> Schema:
        node = record(value=leaf, next={"$ref": "#/$defs/Node"})
        return {"$defs": {"Node": node}, **record(root={"$ref": "#/$defs/Node"})}

    assert between(tree(TEXT), tree({"type": "integer"})) == [
        (".root.value", "type changed from 'string' to 'integer'", True)
    ]


SCHEMAS: st.SearchStrategy[Schema] = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "object"]),
            "enum": st.lists(st.sampled_from(["a", 1]), max_size=2, unique=True),
            "minimum": st.integers(0, 2),
            "$ref": st.sampled_from(["#/$defs/A", "#/$defs/B"]),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("ab"), inner),
            "required": st.lists(st.sampled_from("ab"), unique=True),
            "items": inner,
            "$defs": st.dictionaries(st.sampled_from("AB"), inner),
        },
    ),
    max_leaves=6,
)


@given(old=SCHEMAS, new=SCHEMAS)
def test_any_two_schemas_can_be_compared(old: Schema, new: Schema) -> None:
    changes = between(old, new)
    assert bool(changes) == (old != new)
