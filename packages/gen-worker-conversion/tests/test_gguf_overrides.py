"""Metadata set by a caller keep the types that readers expect."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.container import Number
from gen_worker.conversion.gguf.overrides import with_overrides

METADATA: dict[str, Any] = {
    "general.name": "old",
    "a.count": 7,
    "a.real": 0.5,
    "a.flag": False,
    "a.short": Number(2, 3),
    "a.list": [1, 2],
}


def test_keys_that_are_there_keep_their_types() -> None:
    wanted = {"general.name": "7", "a.count": "8", "a.real": "2", "a.flag": "True", "a.short": "4"}
    made = with_overrides(METADATA, wanted)
    assert made == {
        **METADATA,
        **{"general.name": "7", "a.count": 8, "a.flag": True, "a.short": Number(2, 4)},
        "a.real": 2.0,
    }
    assert isinstance(made["a.real"], float)
    assert list(made) == list(METADATA)


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("0.5", 0.5), ("true", True), ("a b", "a b"), ("", "")]
)
def test_new_keys_are_what_they_look_like(text: str, value: Any) -> None:
    made = with_overrides(METADATA, {"general.new": text})["general.new"]
    assert (type(made), made) == (type(value), value)


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("split.count", "2", "follows from the tensors"),
        ("general.alignment", "64", "follows from the tensors"),
        ("", "x", "follows"),
        ("a.count", "many", "many"),
        ("a.flag", "7", "truth value"),
        ("a.list", "1", "list"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(key: str, text: str, said: str) -> None:
    with pytest.raises(ConversionInputError, match=said) as caught:
        with_overrides(METADATA, {key: text})
    assert repr(key) in str(caught.value)
