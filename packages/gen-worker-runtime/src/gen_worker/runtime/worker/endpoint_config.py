"""What the orchestrator says about the endpoint: models, functions, and what refs mean.

One frozen value, and the pure function that a new configuration is applied with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from gen_worker.manifest import LockedModel
from gen_worker.models.refs import RefError, parse_ref
from gen_worker.runtime.wire import DisabledFunction, EndpointConfig, RefStatus, ResolvedRepo
from gen_worker.runtime.wire.refs import ref_index
from gen_worker.runtime.worker.availability import Gate

if TYPE_CHECKING:
    from gen_worker.manifest import Manifest
    from gen_worker.models.refs import Ref

__all__ = [
    "EndpointState",
    "Keyspace",
    "apply",
    "canonical",
    "initial_state",
    "news_of",
    "terminal_gate",
]

Keyspace = Mapping[str, LockedModel]

HUB = "tensorhub"
_ALL = "*"
_TERMINAL = {
    "access_revoked": "read_access_revoked",
    "repo_deleted": "repo_deleted",
    "flavor_not_found": "flavor_not_found",
}
"""Statuses that do not end by themselves, and what a function's gate calls them."""


class EndpointState(msgspec.Struct, frozen=True, kw_only=True):
    """What holds at the moment. Refs are canonical text."""

    models: Keyspace = {}
    """By key, for all functions."""
    models_by_function: Mapping[str, Keyspace] = {}
    scope: tuple[str, ...] = ()
    """What the image was built with."""
    providers: Mapping[str, str] = {}
    """Of those in `scope` that are not the hub's: the wire's refs do not name their provider."""
    allowed: tuple[str, ...] = ()
    """What may be used of it, most wanted first."""
    repos: Mapping[str, ResolvedRepo] = {}
    """What refs mean; found by every spelling of a ref."""
    required: tuple[str, ...] = ()
    """To have here before the worker is ready."""
    disabled: Mapping[str, Gate] = {}
    """By function."""
    status: Mapping[str, Mapping[str, RefStatus]] = {}
    """By function and key."""
    baked_models: Keyspace = {}
    baked_by_function: Mapping[str, Keyspace] = {}
    has_new_keys: bool = False
    """Whether the orchestrator sent models that replace those of the image."""
    revision: int = 0
    """Configurations received."""

    @property
    def is_configured(self) -> bool:
        return self.revision > 0


def initial_state(manifest: Manifest | None, scope: Iterable[Ref] = ()) -> EndpointState:
    """Return what holds before the orchestrator said anything.

    Args:
        manifest: What the image was built with; None knows no keys.
        scope: Every model that is bound.
    """
    models: Keyspace = manifest.models if manifest is not None else {}
    by_function = manifest.models_by_function if manifest is not None else {}
    providers = {str(ref): ref.provider for ref in scope}
    refs = tuple(providers)
    return EndpointState(
        providers={ref: name for ref, name in providers.items() if name != HUB},
        models=models,
        models_by_function=by_function,
        scope=refs,
        allowed=refs,
        baked_models=models,
        baked_by_function=by_function,
    )


def apply(state: EndpointState, config: EndpointConfig) -> EndpointState:
    """Return what holds once a configuration was received."""
    has_update = bool(config.ref_by_key or config.models_by_function)
    models, by_function = state.models, state.models_by_function
    if has_update:
        models = _keyspace(state, config.ref_by_key, state.baked_models)
        by_function = {
            function: _keyspace(state, refs, state.baked_by_function.get(function, {}))
            for function, refs in config.models_by_function.items()
        }
    has_new_keys = state.has_new_keys or has_update
    if has_new_keys:
        allowed = _widened(state, config.supported_refs, _refs_of(models, *by_function.values()))
    else:
        allowed = _narrowed(state, config.supported_refs)
    return msgspec.structs.replace(
        state,
        models=models,
        models_by_function=by_function,
        allowed=allowed,
        repos=ref_index(config.repos),
        required=_canonical(state, config.required_refs),
        disabled={one.function: _gate(one) for one in config.disabled_functions},
        status=config.ref_status_by_function,
        has_new_keys=has_new_keys,
        revision=state.revision + 1,
    )


def news_of(before: EndpointState, now: EndpointState) -> set[str]:
    """Return the refs that are described in another way, or were not wanted before."""
    described = {
        ref for ref in (*now.required, *now.allowed) if now.repos.get(ref) != before.repos.get(ref)
    }
    required, allowed = {*before.required}, {*before.allowed}
    return described | ({*now.required} - required) | ({*now.allowed} - allowed)


def terminal_gate(state: EndpointState, function: str, keys: Iterable[str]) -> Gate | None:
    """Return why a request cannot have the models it selects; None when it can.

    Args:
        state: What holds.
        function: Slug.
        keys: What the request selects: keys of tables, slots.
    """
    known = state.status.get(function)
    if not known:
        return None
    for key in keys:
        status = known.get(key)
        if status is not None and status.status in _TERMINAL:
            detail = status.detail or status.reason or f"model {status.ref!r}: {status.status}"
            return Gate(_TERMINAL[status.status], detail, {"ref": status.ref, "model_key": key})
    return None


def canonical(state: EndpointState, text: str) -> str:
    """Return a ref of the wire as this worker spells it; what is none stays as it is."""
    if text in state.providers:
        return text
    try:
        return str(parse_ref(text))
    except RefError:
        return text


def _canonical(state: EndpointState, refs: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(canonical(state, ref) for ref in refs))


def _keyspace(
    state: EndpointState, refs: Mapping[str, str], baked: Keyspace
) -> dict[str, LockedModel]:
    """Return new refs under their keys, with the wishes the author had for the old ones."""
    return {
        key: LockedModel(
            ref=canonical(state, ref), attributes=baked[key].attributes if key in baked else {}
        )
        for key, ref in refs.items()
    }


def _narrowed(state: EndpointState, supported: tuple[str, ...]) -> tuple[str, ...]:
    """Return what of the image may be used, in the orchestrator's order."""
    wanted = _canonical(state, supported)
    if not wanted or _ALL in wanted:
        return state.scope
    return tuple(ref for ref in wanted if ref in state.scope)


def _widened(
    state: EndpointState, supported: tuple[str, ...], keyed: tuple[str, ...]
) -> tuple[str, ...]:
    """Return what may be used where the orchestrator sent keys: then it may also widen."""
    wanted = _canonical(state, supported)
    if not wanted or _ALL in wanted:
        return tuple(dict.fromkeys((*state.scope, *keyed)))
    return wanted


def _refs_of(*keyspaces: Keyspace) -> tuple[str, ...]:
    return tuple(model.ref for keyspace in keyspaces for model in keyspace.values())


def _gate(disabled: DisabledFunction) -> Gate:
    axes = {"ref": disabled.ref, "model_key": disabled.model_key}
    return Gate(
        disabled.reason or "function_unavailable",
        disabled.detail,
        {name: value for name, value in axes.items() if value},
    )
