"""The endpoint's configuration as a value: what an orchestrator may narrow, widen and describe."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.manifest import LockedModel, Manifest
from gen_worker.models.refs import parse_ref
from gen_worker.runtime.wire import DisabledFunction, EndpointConfig, RefStatus, ResolvedRepo
from gen_worker.runtime.worker.availability import Gate
from gen_worker.runtime.worker.catalog import ModelBook
from gen_worker.runtime.worker.endpoint_config import (
    EndpointState,
    apply,
    initial_state,
    news_of,
    terminal_gate,
)

A, B, C = "acme/a:prod", "acme/b:prod", "acme/c:prod"
HF = "Upper/Case"


def state(*refs: str, manifest: Manifest | None = None) -> EndpointState:
    scope = [parse_ref(ref, "hf" if ref == HF else "tensorhub") for ref in refs]
    return initial_state(manifest, scope)


def test_nothing_is_configured_at_first() -> None:
    first = state(A, HF)
    assert (first.scope, first.allowed, first.is_configured) == ((A, HF), (A, HF), False)
    assert apply(first, EndpointConfig()).is_configured


@pytest.mark.parametrize(
    ("supported", "allowed"),
    [
        ((), (A, B)),
        (("*",), (A, B)),
        (("acme/b", "acme/a:prod"), (B, A)),
        (("acme/b", "acme/c"), (B,)),
        (("acme/c",), ()),
    ],
)
def test_the_list_narrows_and_orders_what_was_built(
    supported: tuple[str, ...], allowed: tuple[str, ...]
) -> None:
    assert apply(state(A, B), EndpointConfig(supported_refs=supported)).allowed == allowed


def test_keys_of_the_orchestrator_replace_those_of_the_image_and_may_widen() -> None:
    wishes: dict[str, tuple[str, ...]] = {"dtype": ("bf16",)}
    manifest = Manifest(
        functions=(),
        models={"main": LockedModel(ref="acme/a", attributes=wishes)},
        models_by_function={"f": {"one": LockedModel(ref="acme/a")}},
    )
    first = state(A, manifest=manifest)
    config = EndpointConfig(
        ref_by_key={"main": "acme/b"}, models_by_function={"f": {"two": "acme/c"}}
    )
    now = apply(first, config)
    assert now.models == {"main": LockedModel(ref=B, attributes=wishes)}
    assert now.models_by_function == {"f": {"two": LockedModel(ref=C)}}
    assert now.allowed == (A, B, C)
    # One that says nothing of keys leaves them; the list may still name what was not built.
    later = apply(now, EndpointConfig(supported_refs=("acme/c", "acme/x")))
    assert later.models == now.models
    assert later.allowed == (C, "acme/x:prod")


def test_refs_of_other_providers_stay_as_they_are_written() -> None:
    config = EndpointConfig(supported_refs=(HF, "ACME/A"), required_refs=(HF, "acme/a"))
    now = apply(state(A, HF), config)
    assert now.allowed == now.required == (HF, A)


def test_what_a_ref_means_is_found_by_each_of_its_spellings() -> None:
    repo = ResolvedRepo(snapshot_digest="blake3:" + "ab" * 32)
    now = apply(state(A), EndpointConfig(repos={"acme/a:latest": repo}))
    assert now.repos[A] is repo


def test_disabled_functions_are_replaced_by_each_configuration() -> None:
    gone = DisabledFunction(function="f", reason="repo_deleted", detail="gone", ref="acme/a")
    now = apply(state(), EndpointConfig(disabled_functions=(gone,)))
    assert now.disabled == {"f": Gate("repo_deleted", "gone", {"ref": "acme/a"})}
    assert apply(now, EndpointConfig()).disabled == {}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("resolved", None),
        ("transient_error", None),
        ("", None),
        ("access_revoked", "read_access_revoked"),
        ("repo_deleted", "repo_deleted"),
        ("flavor_not_found", "flavor_not_found"),
    ],
)
def test_only_a_terminal_status_of_a_selected_key_counts(status: str, reason: str | None) -> None:
    statuses = {"f": {"one": RefStatus(ref="acme/a", status=status)}}
    now = apply(state(A), EndpointConfig(ref_status_by_function=statuses))
    gate = terminal_gate(now, "f", ["one"])
    assert (gate.reason if gate else None) == reason
    assert terminal_gate(now, "f", ["two"]) is None
    assert terminal_gate(now, "g", ["one"]) is None


class Bound:
    """As much of a bound model as the book looks at."""

    def __init__(self, function: str, ref: str) -> None:
        self.function = function
        self.ref = ref


def book(*pairs: tuple[str, str]) -> Any:
    bound: Any = [Bound(function, ref) for function, ref in pairs]
    return ModelBook(bound)


def test_functions_wait_for_each_of_their_models_and_fail_without_any() -> None:
    models = book(("f", A), ("f", B), ("g", B))
    models.require((), (A, B), {A, B})
    assert models.loading_functions() == {"f", "g"}
    models[A] = "here"
    models[B] = "fetching"
    assert models.loading_functions() == {"f", "g"}
    models[B] = "failed"
    assert models.loading_functions() == set()
    assert models.failed_functions() == {"g": B}
    assert models.is_settled


def test_required_models_are_waited_for_and_what_may_not_be_used_is_not() -> None:
    models = book(("f", A), ("g", B))
    models.require((C,), (A,), {A, C})
    assert models.waiting((A,)) == [A, C]
    assert models[B] == "left"
    assert not models.is_settled
    assert models.loading_functions() == {"f"}
    models.require((), (B, A), {B})
    assert models.waiting((B, A))[:2] == [B, A]


def test_a_model_that_was_left_to_its_jobs_is_waited_for_when_there_is_news_of_it() -> None:
    models = book(("f", A), ("g", B))
    models[A], models[B] = "left", "failed"
    models.require((), (A, B), ())
    assert models.is_settled
    models.require((), (A, B), {A, B})
    assert models.loading_functions() == {"f", "g"}


def test_news_are_other_descriptions_and_new_wishes() -> None:
    described = ResolvedRepo(snapshot_digest="blake3:1")
    first = apply(state(A, B), EndpointConfig())
    assert news_of(first, apply(first, EndpointConfig())) == set()
    told = apply(first, EndpointConfig(repos={A: described}, required_refs=(B,)))
    assert news_of(first, told) == {A, B}
    assert news_of(told, apply(told, EndpointConfig(repos={A: described}))) == set()
