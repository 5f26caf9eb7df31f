"""Refs: what each provider's grammar accepts, refuses and prints."""

from __future__ import annotations

import pickle
import string
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gen_worker.errors import ValidationError, classify
from gen_worker.models import (
    CivitaiRef,
    HFRef,
    ModelScopeRef,
    Ref,
    RefError,
    TensorhubRef,
    identity,
    parse_prefixed_ref,
    parse_ref,
)

HEX = "0123456789abcdef" * 4
PROVIDERS = ("tensorhub", "hf", "civitai", "modelscope")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("acme/flux", "acme/flux:prod"),
        ("acme/flux:dev", "acme/flux:dev"),
        ("acme/flux:latest", "acme/flux:latest"),
        ("acme/flux#bf16", "acme/flux:prod#bf16"),
        ("acme/flux:v1.0_rc-2#int4", "acme/flux:v1.0_rc-2#int4"),
        ("Acme/FLUX:Dev#BF16", "acme/flux:dev#bf16"),
        ("  acme / flux : dev # bf16 ", "acme/flux:dev#bf16"),
        ("0a/1.b-c_d", "0a/1.b-c_d:prod"),
        (f"acme/flux@blake3:{HEX}", f"acme/flux@blake3:{HEX}"),
        (f"acme/flux@BLAKE3:{HEX.upper()}#Q4", f"acme/flux@blake3:{HEX}#q4"),
        (f"acme/flux@sha256:{HEX}", f"acme/flux@sha256:{HEX}"),
        ("acme/flux#bf16?attribute=x", "acme/flux:prod#bf16"),
        ("hf/flux:dev", "hf/flux:dev"),
    ],
)
def test_hub_ref_prints_canonical_text(text: str, canonical: str) -> None:
    assert str(parse_ref(text)) == canonical


@pytest.mark.parametrize(
    ("provider", "text", "value", "canonical"),
    [
        ("hf", "Owner/Re_po.1", HFRef(repo_id="Owner/Re_po.1"), "Owner/Re_po.1"),
        ("hf", "o/r@refs/pr/3", HFRef(repo_id="o/r", revision="refs/pr/3"), "o/r@refs/pr/3"),
        ("hf", "o/r#FP16", HFRef(repo_id="o/r", flavor="FP16"), "o/r#FP16"),
        ("hf", "o/r@v1#x", HFRef(repo_id="o/r", revision="v1", flavor="x"), "o/r@v1#x"),
        ("modelscope", "Qwen/Q@v2", ModelScopeRef(repo_id="Qwen/Q", revision="v2"), "Qwen/Q@v2"),
        ("civitai", " 4201 ", CivitaiRef(model_id="4201"), "4201"),
        ("civitai", "versions/130072", CivitaiRef(version_id="130072"), "versions/130072"),
        (
            "civitai",
            "https://civitai.com/models/4201?modelVersionId=0130072&x=1",
            CivitaiRef(version_id="130072"),
            "versions/130072",
        ),
        ("civitai", "model_version_id=7", CivitaiRef(version_id="7"), "versions/7"),
        ("civitai", "version_id=7", CivitaiRef(version_id="7"), "versions/7"),
    ],
)
def test_other_providers(provider: str, text: str, value: Ref, canonical: str) -> None:
    assert parse_ref(text, provider) == value
    assert str(value) == canonical
    assert value.provider == provider


@pytest.mark.parametrize(
    ("provider", "text", "code"),
    [
        ("tensorhub", "", "empty_ref"),
        ("tensorhub", " \n", "empty_ref"),
        ("tensorhub", "flux", "missing_slash"),
        ("tensorhub", "a/b/c", "extra_slash"),
        ("tensorhub", "/flux", "empty_owner"),
        ("tensorhub", "acme/", "empty_repo"),
        ("tensorhub", "-acme/flux", "bad_owner"),
        ("tensorhub", "acme/..", "bad_repo"),
        ("tensorhub", "acme/.hidden", "bad_repo"),
        ("tensorhub", "acme/fl ux", "bad_repo"),
        ("tensorhub", "acme/flux:a:b", "bad_repo"),
        ("tensorhub", "acme/flux:", "empty_tag"),
        ("tensorhub", "acme/flux: #bf16", "empty_tag"),
        ("tensorhub", "acme/flux:-x", "bad_tag"),
        ("tensorhub", "acme/flux:" + "x" * 64, "bad_tag"),
        ("tensorhub", "acme/flux#", "empty_flavor"),
        ("tensorhub", "acme/flux#?a=b", "empty_flavor"),
        ("tensorhub", "acme/flux#a#b", "bad_flavor"),
        ("tensorhub", "acme/flux#a/b", "bad_flavor"),
        ("tensorhub", "acme/flux@blake3:", "empty_digest"),
        ("tensorhub", "acme/flux@blake3:abc", "bad_digest"),
        ("tensorhub", f"acme/flux@blake3:{HEX}0", "bad_digest"),
        ("tensorhub", f"acme/flux@blake3:{HEX[:-1]}g", "bad_digest"),
        ("tensorhub", f"acme/flux@blake3:{HEX}:tag", "bad_digest"),
        ("tensorhub", f"acme/flux:dev@blake3:{HEX}", "digest_with_tag"),
        ("tensorhub", f"acme/flux@md5:{HEX}", "unknown_digest"),
        ("tensorhub", f"acme/flux@{HEX}", "unknown_digest"),
        ("tensorhub", f"acme/flux@x@blake3:{HEX}", "unknown_digest"),
        ("tensorhub", "hf:acme/flux", "provider_prefix"),
        ("tensorhub", "cozy:acme/flux", "provider_prefix"),
        ("tensorhub", "https://example.com/a/b", "url"),
        ("tensorhub", "acme/" + "x" * 600, "too_long"),
        ("tensorhub", "acme/flüx", "bad_character"),
        ("tensorhub", "\N{KELVIN SIGN}/flux", "bad_character"),
        ("tensorhub", "acme/flux\x00", "bad_repo"),
        ("tensorhub", "\ud800/flux", "bad_character"),
        ("hf", "gpt2", "missing_slash"),
        ("hf", "o/r:main", "bad_repo"),
        ("hf", "o/r@", "empty_revision"),
        ("hf", "o/r@../x", "bad_revision"),
        ("hf", "o/r@a//b", "bad_revision"),
        ("hf", "o/r@-x", "bad_revision"),
        ("hf", "o/r--x", "bad_repo"),
        ("hf", "o/r..x", "bad_repo"),
        ("hf", "o/r.git", "bad_repo"),
        ("hf", "o/r.", "bad_repo"),
        ("hf", "o/" + "r" * 95, "bad_repo"),
        ("hf", "hf:o/r", "provider_prefix"),
        ("hf", "o/r#", "empty_flavor"),
        ("modelscope", "qwen", "missing_slash"),
        ("modelscope", "a/b/c", "extra_slash"),
        ("modelscope", "o/r#x", "bad_repo"),
        ("civitai", "abc", "bad_id"),
        ("civitai", "0", "bad_id"),
        ("civitai", "-1", "bad_id"),
        ("civitai", "١٢", "bad_character"),
        ("civitai", "versions/", "bad_id"),
        ("civitai", "versions/12x", "bad_id"),
        ("civitai", "9" * 40, "bad_id"),
        ("civitai", "https://civitai.com/models/4201", "bad_id"),
        ("ollama", "a/b", "unsupported_provider"),
    ],
)
def test_malformed_text_is_refused_with_its_code(provider: str, text: str, code: str) -> None:
    with pytest.raises(RefError) as caught:
        parse_ref(text, provider)
    error = caught.value
    assert error.code == code
    assert (error.ref, error.provider) == (text, provider)
    assert ": " in str(error)
    assert len(str(error)) < 700
    assert isinstance(error, ValidationError)
    assert classify(error, origin="input").error_type == "validation"
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


@pytest.mark.parametrize("value", [None, 7, b"a/b", ["a/b"], {"ref": "a/b"}])
def test_what_is_no_text_is_no_ref(value: Any) -> None:
    with pytest.raises(RefError, match="it is no text") as caught:
        parse_ref(value)
    assert (caught.value.code, caught.value.ref) == ("ref_not_text", repr(value))


@pytest.mark.parametrize(
    ("build", "fields"),
    [
        (TensorhubRef, {"owner": "Acme", "repo": "flux"}),
        (TensorhubRef, {"owner": "acme", "repo": "flux\n"}),
        (TensorhubRef, {"owner": "acme", "repo": "flux", "tag": "v1", "digest": f"blake3:{HEX}"}),
        (TensorhubRef, {"owner": "acme", "repo": "flux", "digest": HEX}),
        (HFRef, {"repo_id": "a/b/c"}),
        (HFRef, {"repo_id": "gpt2"}),
        (ModelScopeRef, {"repo_id": "../x"}),
        (CivitaiRef, {}),
        (CivitaiRef, {"model_id": "1", "version_id": "2"}),
        (CivitaiRef, {"model_id": "007"}),
    ],
)
def test_values_cannot_be_made_wrong(build: type[Ref], fields: dict[str, str]) -> None:
    with pytest.raises(RefError):
        build(**fields)


def test_absent_tag_is_prod_and_latest_is_only_explicit() -> None:
    assert TensorhubRef(owner="a", repo="b") == TensorhubRef(owner="a", repo="b", tag="prod")
    assert parse_ref("a/b") == parse_ref("a/b:prod") != parse_ref("a/b:latest")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acme/flux", "tensorhub:acme/flux:prod"),
        ("tensorhub:acme/flux:dev", "tensorhub:acme/flux:dev"),
        ("cozy:acme/flux", "tensorhub:acme/flux:prod"),
        ("HF:Owner/Repo@main", "hf:Owner/Repo@main"),
        (" civitai: 4201", "civitai:4201"),
        ("civitai:versions/7", "civitai:versions/7"),
        ("modelscope:q/w", "modelscope:q/w"),
    ],
)
def test_people_may_write_a_provider_prefix(text: str, expected: str) -> None:
    assert identity(parse_prefixed_ref(text)) == expected


def test_prefix_is_read_once() -> None:
    with pytest.raises(RefError) as caught:
        parse_prefixed_ref("hf:hf:owner/repo")
    assert caught.value.code == "provider_prefix"


def test_default_provider_of_a_bare_ref() -> None:
    assert parse_prefixed_ref("Owner/Repo", default="hf") == HFRef(repo_id="Owner/Repo")


LOWER = string.ascii_lowercase + string.digits
hub_segments = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,40}", fullmatch=True)
hub_names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
digests = st.builds(
    "{}:{}".format,
    st.sampled_from(["blake3", "sha256"]),
    st.text("0123456789abcdef", min_size=64, max_size=64),
)
hub_refs = st.builds(
    TensorhubRef,
    owner=hub_segments,
    repo=hub_segments,
    tag=hub_names,
    flavor=hub_names | st.just(""),
) | st.builds(
    TensorhubRef,
    owner=hub_segments,
    repo=hub_segments,
    digest=digests,
    flavor=hub_names | st.just(""),
)
words = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=20)
repo_ids = st.builds("{}/{}".format, words, words)
revisions = st.lists(words, max_size=3).map("/".join)
refs = st.one_of(
    hub_refs,
    st.builds(HFRef, repo_id=repo_ids, revision=revisions, flavor=st.text(LOWER, max_size=8)),
    st.builds(ModelScopeRef, repo_id=repo_ids, revision=revisions),
    st.builds(CivitaiRef, model_id=st.integers(1, 10**17).map(str)),
    st.builds(CivitaiRef, version_id=st.integers(1, 10**17).map(str)),
)


@given(refs)
def test_every_ref_survives_its_text_and_its_identity(ref: Ref) -> None:
    assert parse_ref(str(ref), ref.provider) == ref
    assert parse_prefixed_ref(identity(ref)) == ref
    assert msgspec.structs.replace(ref) == ref


near_misses = st.text(
    alphabet=st.sampled_from("aZ09._-/:@#? \t\n%\\é") | st.characters(), max_size=40
)


@given(near_misses | st.text() | st.just("acme/flux").flatmap(st.permutations).map("".join))
@example(f"a/b@blake3:{HEX}")
@example("a/b@blake3:" + "\N{FULLWIDTH DIGIT ZERO}" * 64)
def test_any_text_is_a_ref_or_a_ref_error(text: str) -> None:
    """What is accepted prints a text without surprises that reads as the same ref."""
    for provider in PROVIDERS:
        try:
            ref = parse_ref(text, provider)
        except RefError:
            continue
        canonical = str(ref)
        assert canonical.isascii()
        assert canonical.isprintable()
        assert not set(canonical) & set(" \\%?*\"'<>|")
        assert ".." not in canonical.split("/")
        assert parse_ref(canonical, provider) == ref
