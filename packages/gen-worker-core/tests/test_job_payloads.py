"""A job takes single fields; together they are a payload type like any other."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gen_worker import training_function
from gen_worker.schema import json_schema
from gen_worker.spec import payload_type_of, specs_of
from gen_worker.types import ProducedFlavor


class Options(msgspec.Struct):
    steps: int = 3


class Fixed(msgspec.Struct, frozen=True):
    steps: int = 3


def job_with(default: Any, annotation: Any) -> Callable[..., Any]:
    def job(ctx, name, value=default):  # type: ignore[no-untyped-def]
        return []

    job.__annotations__ = {"name": str, "value": annotation, "return": list[ProducedFlavor]}
    decorated: Callable[..., Any] = training_function(kind="dataset-generation")(job)
    return decorated


DEFAULTS = [
    (5, int),
    ([], list[int]),
    ([1, 2], list[int]),
    ({"a": [1]}, dict[str, list[int]]),
    (Options(steps=9), Options),
    (Fixed(steps=9), Fixed),
    (None, Options | None),
]


@pytest.mark.parametrize(("default", "annotation"), DEFAULTS)
def test_every_default_is_the_fields_default_and_belongs_to_one_call(
    default: Any, annotation: Any
) -> None:
    payload_type = payload_type_of(specs_of(job_with(default, annotation))[0])
    first = msgspec.json.decode(b'{"name": "a"}', type=payload_type)
    assert (first.name, first.value) == ("a", default)
    if isinstance(default, (list, dict, Options)):
        second = msgspec.json.decode(b'{"name": "a"}', type=payload_type)
        assert second.value is not first.value


@pytest.mark.parametrize(("default", "annotation"), DEFAULTS)
def test_only_fields_without_a_default_are_required(default: Any, annotation: Any) -> None:
    schema = json_schema(payload_type_of(specs_of(job_with(default, annotation))[0]))
    assert schema["required"] == ["name"]
    assert list(schema["properties"]) == ["name", "value"]
