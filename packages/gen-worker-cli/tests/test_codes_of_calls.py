"""Every code of docs/error-codes.md that speaks of a call, a host or a model is produced."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from gen_worker import (
    HFRepo,
    ModelRef,
    ModelRefSource,
    Repo,
    Resources,
    SharedBase,
    dispatch,
    errors,
)
from gen_worker.endpoint.problems import DEFINITION_CODES
from gen_worker.host_requirements import Gpu, HostFacts, missing_host_requirements
from gen_worker.models.injection import parse_injection
from gen_worker.models.overrides import (
    OVERRIDE_CODES,
    RepoFacts,
    check_overrides,
    parse_overrides,
)
from gen_worker.models.refs import parse_ref
from gen_worker.problem_codes import DISCOVERY_CODES, LOCK_CODES, PROJECT_CODES
from gen_worker.spec import ModelParameter

DOCUMENT = Path(__file__).parents[3] / "docs" / "error-codes.md"

OUTCOMES: dict[str, BaseException] = {
    "validation": errors.ValidationError("x"),
    "retryable": errors.RetryableError("x"),
    "resource": errors.ResourceError("x"),
    "fatal": errors.FatalError("x"),
    "auth": errors.AuthError("x"),
    "canceled": errors.CanceledError("x"),
    "internal": RuntimeError("x"),
    "hardware_unmet": errors.HardwareUnmetError("x"),
    "function_unavailable": errors.FunctionUnavailableError("x"),
    "artifact_transfer": errors.ArtifactTransferError("x"),
    "ref_compatibility_surprise": errors.RefCompatibilitySurprise("x"),
    "worker_overloaded": errors.OverloadedError("x"),
    "duplicate_request_id": errors.DuplicateRequestError("x"),
}


@pytest.mark.claims(
    "validation",
    "retryable",
    "resource",
    "fatal",
    "auth",
    "canceled",
    "internal",
    "hardware_unmet",
    "function_unavailable",
    "artifact_transfer",
    "ref_compatibility_surprise",
    "worker_overloaded",
    "duplicate_request_id",
)
@pytest.mark.parametrize("code", OUTCOMES)
def test_how_a_call_ends(code: str) -> None:
    assert errors.classify(OUTCOMES[code]).error_type == code


def test_every_outcome_is_listed() -> None:
    assert {row.error_type for row in errors._DISPOSITIONS.values()} <= set(OUTCOMES)


@pytest.mark.claims(
    "cuda_unavailable",
    "compute_capability_unmet",
    "insufficient_vram",
    "missing_optional_library",
)
@pytest.mark.parametrize(
    ("resources", "gpus", "code"),
    [
        (Resources(requires_gpu=True), (), "cuda_unavailable"),
        (Resources(min_compute_capability=9), (Gpu(24, 8.0),), "compute_capability_unmet"),
        (Resources(min_vram_gb=48), (Gpu(24, 8.0),), "insufficient_vram"),
        (Resources(required_libraries=("no_such_lib",)), (), "missing_optional_library"),
    ],
)
def test_what_a_host_lacks(resources: Resources, gpus: tuple[Gpu, ...], code: str) -> None:
    (gap,) = missing_host_requirements(resources, HostFacts(gpus=gpus))
    assert gap.reason == code


class Hub:
    """Knows one repository."""

    async def look_up(self, ref: Any) -> RepoFacts | None:
        if ref.repository != "acme/known":
            return None
        return RepoFacts(
            tags=frozenset({"prod"}), flavors=frozenset({"bf16"}), pipeline_class="acme.Other"
        )


FREE = {"engine": ModelParameter("engine", Repo("a/b").allow_override("acme.Pipe"))}
FIXED = {"engine": ModelParameter("engine", Repo("a/b"))}


@pytest.mark.claims(
    "unknown_override_param",
    "model_override_not_allowed",
    "override_ref_not_found",
    "override_tag_not_found",
    "override_flavor_not_found",
    "incompatible_pipeline_class",
)
@pytest.mark.parametrize(
    ("parameters", "envelope", "code"),
    [
        (FREE, {"nobody": "acme/known"}, "unknown_override_param"),
        (FIXED, {"engine": "acme/known"}, "model_override_not_allowed"),
        (FREE, {"engine": "acme/unknown"}, "override_ref_not_found"),
        (FREE, {"engine": "acme/known:old"}, "override_tag_not_found"),
        (FREE, {"engine": "acme/known#int4"}, "override_flavor_not_found"),
        (FREE, {"engine": "acme/known#bf16"}, "incompatible_pipeline_class"),
    ],
)
def test_overrides_that_are_refused(
    parameters: dict[str, ModelParameter], envelope: dict[str, str], code: str
) -> None:
    assert code in OVERRIDE_CODES
    with pytest.raises(errors.OverrideError) as caught:
        asyncio.run(check_overrides(parse_overrides(envelope, parameters), parameters, Hub()))
    assert caught.value.code == code


REFS: dict[str, tuple[Any, str]] = {
    "unsupported_provider": ("a/b", "ftp"),
    "ref_not_text": (7, "tensorhub"),
    "too_long": ("a/" + "b" * 5000, "tensorhub"),
    "bad_character": ("a/é", "tensorhub"),
    "url": ("https://hub/a/b", "tensorhub"),
    "provider_prefix": ("hf:a/b", "tensorhub"),
    "digest_with_tag": ("a/b:prod@blake3:" + "0" * 64, "tensorhub"),
    "unknown_digest": ("a/b@md5:00", "tensorhub"),
    "bad_digest": ("a/b@blake3:00", "tensorhub"),
    "bad_id": ("a/b", "civitai"),
    "missing_slash": ("ab", "tensorhub"),
    "extra_slash": ("a/b/c", "tensorhub"),
    "empty_ref": (" ", "tensorhub"),
    "empty_owner": ("/b", "tensorhub"),
    "empty_repo": ("a/", "tensorhub"),
    "empty_tag": ("a/b:", "tensorhub"),
    "empty_digest": ("a/b@blake3:", "tensorhub"),
    "empty_flavor": ("a/b#", "tensorhub"),
    "empty_revision": ("a/b@", "hf"),
    "bad_owner": ("-a/b", "tensorhub"),
    "bad_repo": ("a/b:tag", "hf"),
    "bad_tag": ("a/b:..", "tensorhub"),
    "bad_flavor": ("a/b#a b", "tensorhub"),
    "bad_revision": ("a/b@..", "hf"),
}


@pytest.mark.claims(
    "unsupported_provider",
    "ref_not_text",
    "too_long",
    "bad_character",
    "url",
    "provider_prefix",
    "digest_with_tag",
    "unknown_digest",
    "bad_digest",
    "bad_id",
    "missing_slash",
    "extra_slash",
    "empty_ref",
    "empty_owner",
    "empty_repo",
    "empty_tag",
    "empty_digest",
    "empty_flavor",
    "empty_revision",
    "bad_owner",
    "bad_repo",
    "bad_tag",
    "bad_flavor",
    "bad_revision",
)
@pytest.mark.parametrize("code", REFS)
def test_texts_that_are_no_refs(code: str) -> None:
    with pytest.raises(errors.ValidationError) as caught:
        parse_ref(*REFS[code])
    assert getattr(caught.value, "code", None) == code


class Ask(msgspec.Struct):
    text: str
    quality: Literal["draft", "final"] = "draft"


def check(binding: Any) -> None:
    binding.check("engine", Ask)


TABLE = {"draft": Repo("a/b"), "final": Repo("a/c")}

BINDINGS: dict[str, Any] = {
    "bad_slot_name": lambda: Repo("not a name", "a/b"),
    "given_twice": lambda: Repo("a", "a/b", name="c"),
    "hf_flavor": lambda: HFRepo("a/b#bf16"),
    "unknown_dtype": lambda: HFRepo("a/b").dtype("int3"),
    "empty_dtype": lambda: HFRepo("a/b").dtype(" "),
    "empty_subfolder": lambda: HFRepo("a/b").subfolder(" "),
    "bad_subfolder": lambda: HFRepo("a/b").subfolder("../x"),
    "empty_files": lambda: HFRepo("a/b").files(),
    "no_field": lambda: dispatch(" ", TABLE),
    "no_table": lambda: dispatch("quality", {}),
    "no_key": lambda: dispatch("quality", {" ": Repo("a/b")}),
    "unknown_default": lambda: dispatch("quality", TABLE, default="best"),
    "dispatch_field_type": lambda: check(dispatch("text", TABLE)),
    "dispatch_table": lambda: check(dispatch("quality", {"draft": Repo("a/b")})),
    "model_field_unknown": lambda: check(dispatch("nope", TABLE)),
    "injection_inline_ref": lambda: check(ModelRef(ModelRefSource.FIXED, "k", ref="a/b")),
    "injection_restriction": lambda: check(
        ModelRef(ModelRefSource.FIXED, "k", allow_architectures=("x",))
    ),
    "bad_source": lambda: ModelRef("nowhere", "k"),  # type: ignore[arg-type]
    "several_model_refs": lambda: parse_injection(
        Annotated[Any, ModelRef(ModelRefSource.FIXED, "a"), ModelRef(ModelRefSource.FIXED, "b")]
    ),
    "no_pipeline_class": lambda: SharedBase(""),
    "no_slot": lambda: SharedBase("acme.Pipe").variant(),
}


@pytest.mark.claims(
    "bad_slot_name",
    "given_twice",
    "hf_flavor",
    "unknown_dtype",
    "empty_dtype",
    "empty_subfolder",
    "bad_subfolder",
    "empty_files",
    "no_field",
    "no_table",
    "no_key",
    "unknown_default",
    "dispatch_field_type",
    "dispatch_table",
    "model_field_unknown",
    "injection_inline_ref",
    "injection_restriction",
    "bad_source",
    "several_model_refs",
    "no_pipeline_class",
    "no_slot",
)
@pytest.mark.parametrize("code", BINDINGS)
def test_bindings_that_cannot_be(code: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        BINDINGS[code]()
    assert getattr(caught.value, "code", None) == code


def documented() -> dict[str, str]:
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (.*?)(?: \|.*)?\|$", DOCUMENT.read_text(), re.M)
    return {code: meaning.strip() for code, meaning in rows}


def test_the_document_says_what_the_source_says() -> None:
    listed = {**LOCK_CODES, **DISCOVERY_CODES, **PROJECT_CODES, **DEFINITION_CODES}
    found = documented()
    assert {code: found.get(code) for code in listed} == listed
    others = {*OUTCOMES, *REFS, *BINDINGS, *OVERRIDE_CODES}
    assert found.keys() >= others
