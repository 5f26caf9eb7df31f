"""`ModelRef`: models of the older dialect, their keys resolved against endpoint.toml."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

from gen_worker.errors import ModelResolutionError, OverrideError, ValidationError
from gen_worker.models import (
    BindingError,
    Injection,
    ModelRef,
    ModelRefSource,
    Repo,
    parse_injection,
    resolve_keyspace,
)
from gen_worker.project.values import ModelEntry

if TYPE_CHECKING:
    from gen_worker.spec import Binding

FIXED, PAYLOAD, PAYLOAD_REF = (
    ModelRefSource.FIXED,
    ModelRefSource.PAYLOAD,
    ModelRefSource.PAYLOAD_REF,
)


class Speech:
    """Stands for a model class."""


class Source(msgspec.Struct):
    ref: str
    checkpoint_id: str | None = None


class Ask(msgspec.Struct):
    model: str | None = None
    source: Source | None = None


def test_sources() -> None:
    assert [source.value for source in ModelRefSource] == ["fixed", "payload", "payload_ref"]
    assert ModelRefSource("release") is ModelRefSource.RELEASE is FIXED
    assert ModelRef("payload", " model ") == ModelRef(PAYLOAD, "model")  # type: ignore[arg-type]
    assert ModelRef(FIXED, "a", dtypes=["bf16"]).dtypes == ("bf16",)  # type: ignore[arg-type]


@pytest.mark.parametrize(("source", "key"), [("hub", "a"), (FIXED, ""), (FIXED, " "), (FIXED, 5)])
def test_nonsense_is_refused_when_written(source: Any, key: Any) -> None:
    with pytest.raises(BindingError):
        ModelRef(source, key)


@pytest.mark.parametrize(
    ("model_ref", "is_per_call"),
    [
        (ModelRef(FIXED, "asr"), False),
        (ModelRef(PAYLOAD, "model"), True),
        (ModelRef(PAYLOAD_REF, "model", allow_architectures=("sdxl",)), True),
        (ModelRef(PAYLOAD_REF, "model", ref="acme/asr"), True),
    ],
)
def test_it_is_a_binding(model_ref: ModelRef, is_per_call: bool) -> None:
    binding: Binding = model_ref
    binding.check("asr", Ask)
    assert binding.is_per_call is is_per_call
    assert binding.dialect == "injection"
    assert binding.slot_name == ""
    assert pickle.loads(pickle.dumps(model_ref)) == model_ref
    assert hash(model_ref) == hash(pickle.loads(pickle.dumps(model_ref)))


@pytest.mark.parametrize(
    ("model_ref", "code"),
    [
        (ModelRef(FIXED, "asr", ref="acme/asr"), "injection_inline_ref"),
        (ModelRef(PAYLOAD, "model", ref="acme/asr"), "injection_inline_ref"),
        (ModelRef(PAYLOAD, "model", required_file_layout="diffusers"), "injection_restriction"),
        (ModelRef(FIXED, "asr", required_attributes={"a": "b"}), "injection_restriction"),
        (ModelRef(PAYLOAD, "speed"), "model_field_unknown"),
        (ModelRef(PAYLOAD_REF, "speed"), "model_field_unknown"),
    ],
)
def test_what_cannot_be_bound(model_ref: ModelRef, code: str) -> None:
    with pytest.raises(BindingError) as caught:
        model_ref.check("asr", Ask)
    assert caught.value.code == code


def test_parse_injection() -> None:
    model_ref = ModelRef(FIXED, "asr")
    parsed = parse_injection(Annotated[Speech, "note", model_ref])
    assert isinstance(parsed, Injection)
    assert (parsed.annotation, parsed.model_ref) == (Speech, model_ref)
    for annotation in (Speech, Any, Annotated[Speech, "note"], Annotated[Speech, Repo("a/b")]):
        assert parse_injection(annotation) is None
    with pytest.raises(BindingError) as caught:
        parse_injection(Annotated[Speech, model_ref, ModelRef(FIXED, "tts")])
    assert caught.value.code == "several_model_refs"


def test_lock_entry() -> None:
    assert ModelRef(FIXED, "asr", dtypes=("bf16", "fp16")).to_lock("asr", Speech) == {
        "param": "asr",
        "type": f"{__name__}.Speech",
        "model_ref": {"source": "fixed", "key": "asr", "dtypes": ["bf16", "fp16"]},
    }
    entry = ModelRef(
        PAYLOAD_REF,
        "model",
        ref="acme/asr",
        allow_pipeline_classes=("a.B",),
        required_components={"vae": "c.D"},
        require_lineage_verified=True,
    ).to_lock("pipe", Any)
    assert entry["model_ref"] == {
        "source": "payload_ref",
        "key": "model",
        "ref": "acme/asr",
        "dtypes": [],
        "compat_spec": {
            "allow_pipeline_classes": ["a.B"],
            "required_components": {"vae": "c.D"},
            "require_lineage_verified": True,
        },
    }


def test_describe() -> None:
    assert ModelRef(PAYLOAD, "model", dtypes=("bf16",)).describe() == {
        "type": "ModelRef",
        "source": "payload",
        "key": "model",
        "dtypes": ["bf16"],
        "allow_override": False,
        "allow_lora": False,
    }


SPACES: dict[str, dict[str, Any]] = {
    "fixed": {
        "asr": "acme/asr-large",
        "tts": {"ref": "acme/tts:v2", "attributes": {"dtype": ["bf16", "fp16"]}},
        "flux": ModelEntry(ref="acme/flux", attributes={"flavor": ("int4",)}),
        "wish": ModelEntry(ref="acme/flux", attributes={"flavor": ("int4", "int8")}),
        "broken": "nope",
    },
    "payload": {"fast": "acme/asr-small", "exact": {"ref": "acme/asr-large", "flavor": "fp32"}},
}


def resolved(model_ref: ModelRef, payload: Any = None) -> dict[str, Any]:
    return resolve_keyspace(model_ref.choose("p", payload, None), SPACES)


def hub(ref: str, key: str, **more: Any) -> dict[str, Any]:
    plain = {"ref": ref, "tag": "prod", "flavor": "", "provider": "tensorhub"}
    return plain | {"slot_name": "p", "key": key} | more


def test_fixed_keys() -> None:
    assert resolved(ModelRef(FIXED, "asr")) == hub("acme/asr-large", "asr")
    assert resolved(ModelRef(FIXED, "tts")) == hub(
        "acme/tts", "tts", tag="v2", attributes={"dtype": ["bf16", "fp16"]}
    )
    assert resolved(ModelRef(FIXED, "flux")) == hub("acme/flux", "flux", flavor="int4")
    assert resolved(ModelRef(FIXED, "wish")) == hub(
        "acme/flux", "wish", attributes={"flavor": ["int4", "int8"]}
    )


def test_own_dtypes_count_where_the_entry_says_nothing() -> None:
    attributes = resolved(ModelRef(FIXED, "asr", dtypes=("fp16",)))["attributes"]
    assert attributes == {"dtype": ["fp16"]}
    attributes = resolved(ModelRef(FIXED, "tts", dtypes=("fp16",)))["attributes"]
    assert attributes == {"dtype": ["bf16", "fp16"]}


@pytest.mark.parametrize("key", ["missing", "broken"])
def test_the_authors_mistake_is_a_resolution_error(key: str) -> None:
    with pytest.raises(ModelResolutionError, match=key):
        resolved(ModelRef(FIXED, key))


def test_payload_keys() -> None:
    model_ref = ModelRef(PAYLOAD, "model")
    assert resolved(model_ref, Ask(model=" fast ")) == hub("acme/asr-small", "fast")
    assert resolved(model_ref, {"model": "exact"}) == hub("acme/asr-large", "exact", flavor="fp32")


@pytest.mark.parametrize("value", ["acme/asr-small", "slow", "", None, 5])
def test_payload_values_that_are_no_key_are_refused(value: Any) -> None:
    """A caller picks from the function's own models; a ref is not a key."""
    with pytest.raises(ValidationError) as caught:
        resolved(ModelRef(PAYLOAD, "model"), {"model": value})
    assert caught.value.path == "$.model"


def test_fixed_models_are_no_choice_of_the_payload() -> None:
    with pytest.raises(ValidationError):
        resolved(ModelRef(PAYLOAD, "model"), {"model": "asr"})


@pytest.mark.parametrize(
    ("payload", "field", "ref", "tag"),
    [
        (Ask(model="Me/Mine:dev"), "model", "me/mine", "dev"),
        (Ask(source=Source("me/mine", "blake3:00")), "source", "me/mine", "prod"),
    ],
)
def test_payload_ref_takes_the_callers_ref(payload: Ask, field: str, ref: str, tag: str) -> None:
    choice = resolved(ModelRef(PAYLOAD_REF, field), payload)
    assert (choice["ref"], choice["tag"], choice["source"]) == (ref, tag, "payload_ref")
    assert choice.get("checkpoint_id", "") == ("blake3:00" if field == "source" else "")


def test_payload_ref_falls_back_to_its_own_ref() -> None:
    choice = resolved(ModelRef(PAYLOAD_REF, "model", ref="acme/asr"), Ask())
    assert (choice["ref"], "source" in choice) == ("acme/asr", False)


@pytest.mark.parametrize("value", ["nope", "hf:a/b", None, 5, ["a/b"]])
def test_payload_ref_refuses_what_is_no_ref(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        resolved(ModelRef(PAYLOAD_REF, "model"), {"model": value})
    assert caught.value.path == "$.model"


def test_resolving_leaves_other_choices_alone() -> None:
    choice = Repo("a/b").choose("p", None, None)
    assert resolve_keyspace(choice, {}) == choice


def test_only_the_owner_replaces_an_injected_model() -> None:
    model_ref = ModelRef(FIXED, "asr")
    choice = model_ref.choose("p", None, {"ref": "acme/new", "source": "default"})
    assert (choice["ref"], choice["slot_name"]) == ("acme/new", "p")
    with pytest.raises(OverrideError):
        model_ref.choose("p", None, {"ref": "me/mine"})
