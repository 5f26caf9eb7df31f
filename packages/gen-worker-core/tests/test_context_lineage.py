"""What a revision says of where an artifact comes from, and what was asked of it."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.context.lineage import Parent, parent_of, quantization_facts
from gen_worker.context.produced import asked_for
from gen_worker.errors import ValidationError
from gen_worker.types import ProducedFlavor

ID = "ab" * 32


@pytest.mark.parametrize(
    ("source", "path", "parent"),
    [
        ({"ref": "a/b", "checkpoint_id": "7"}, None, Parent("a/b", "7")),
        ({"ref": "a/b:prod#bf16"}, f"/tmp/blake3:{ID}", Parent("a/b", f"blake3:{ID}")),
        ({"ref": "a/b"}, f"/tmp/{ID}/", Parent("a/b", ID)),
        ({"ref": f"a/b@blake3:{ID}#fp8"}, "/tmp/x", Parent("a/b", f"blake3:{ID}")),
        ({"ref": "a/b"}, "/tmp/x", Parent("a/b", None)),
        ({"ref": "/models/x"}, "/models/x", Parent("/models/x", None)),
        ({}, None, Parent(None, None)),
    ],
)
def test_the_parent_is_what_the_job_read(
    source: dict[str, Any], path: str | None, parent: Parent
) -> None:
    assert parent_of(source, path) == parent


@pytest.mark.parametrize(
    ("label", "attributes", "facts"),
    [
        (
            "x",
            {"quant_method": "nf4", "quantization_params": {"bits": 4}},
            {
                "quantization_method": "nf4",
                "quantization_library": "bitsandbytes",
                "quantization_params": {"bits": 4},
            },
        ),
        (
            "int4-awq",
            {"quant_library": "own"},
            {"quantization_method": "int4_awq", "quantization_library": "own"},
        ),
        ("fp8", {}, {"quantization_method": "fp8", "quantization_library": "modelopt"}),
        ("other", {}, {}),
    ],
)
def test_a_quantization_names_its_method_and_library(
    label: str, attributes: dict[str, Any], facts: dict[str, Any]
) -> None:
    assert quantization_facts(label, attributes) == facts


def test_attributes_are_those_asked_for_and_those_of_the_author() -> None:
    outputs = [{"attributes": {"dtype": "bf16", "a": 1}}]
    flavor = asked_for(ProducedFlavor("p", {"a": 2}), 0, outputs)
    assert flavor.attributes == {"dtype": "bf16", "a": 2}
    assert asked_for(ProducedFlavor("p", {"a": 2}), 1, outputs).attributes == {"a": 2}


def test_attributes_of_the_hub_are_refused_by_name() -> None:
    with pytest.raises(ValidationError, match=r"artifact 2 has the attributes \['_size'\]"):
        asked_for(ProducedFlavor("p", {"_size": 1}), 2, None)
