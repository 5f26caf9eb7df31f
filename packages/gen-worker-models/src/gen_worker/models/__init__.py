"""Model refs, bindings and caller overrides, as plain values: nothing here looks anything up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.bindings import CivitaiRepo, HFRepo, ModelScopeRepo, Repo
    from gen_worker.models.choice import LoraChoice, ModelChoice
    from gen_worker.models.declaration import BindingError
    from gen_worker.models.dispatching import Dispatch, dispatch
    from gen_worker.models.injection import (
        Injection,
        ModelRef,
        ModelRefSource,
        parse_injection,
        resolve_keyspace,
    )
    from gen_worker.models.overrides import (
        OVERRIDE_CODES,
        HubLookup,
        RepoFacts,
        check_overrides,
        parse_overrides,
    )
    from gen_worker.models.refs import (
        DEFAULT_TAG,
        CivitaiRef,
        HFRef,
        ModelScopeRef,
        Provider,
        Ref,
        RefError,
        TensorhubRef,
        identity,
        parse_prefixed_ref,
        parse_ref,
        wire_index,
    )
    from gen_worker.models.shared import SharedBase, Variant

__all__ = [
    "DEFAULT_TAG",
    "OVERRIDE_CODES",
    "BindingError",
    "CivitaiRef",
    "CivitaiRepo",
    "Dispatch",
    "HFRef",
    "HFRepo",
    "HubLookup",
    "Injection",
    "LoraChoice",
    "ModelChoice",
    "ModelRef",
    "ModelRefSource",
    "ModelScopeRef",
    "ModelScopeRepo",
    "Provider",
    "Ref",
    "RefError",
    "Repo",
    "RepoFacts",
    "SharedBase",
    "TensorhubRef",
    "Variant",
    "check_overrides",
    "dispatch",
    "identity",
    "parse_injection",
    "parse_overrides",
    "parse_prefixed_ref",
    "parse_ref",
    "resolve_keyspace",
    "wire_index",
]

# Loaded at first use: an endpoint with one `Repo` pays for no more than that.
_MODULES = {
    "bindings": ("CivitaiRepo", "HFRepo", "ModelScopeRepo", "Repo"),
    "choice": ("LoraChoice", "ModelChoice"),
    "declaration": ("BindingError",),
    "dispatching": ("Dispatch", "dispatch"),
    "injection": (
        "Injection",
        "ModelRef",
        "ModelRefSource",
        "parse_injection",
        "resolve_keyspace",
    ),
    "overrides": (
        "OVERRIDE_CODES",
        "HubLookup",
        "RepoFacts",
        "check_overrides",
        "parse_overrides",
    ),
    "refs": (
        "DEFAULT_TAG",
        "CivitaiRef",
        "HFRef",
        "ModelScopeRef",
        "Provider",
        "Ref",
        "RefError",
        "TensorhubRef",
        "identity",
        "parse_prefixed_ref",
        "parse_ref",
        "wire_index",
    ),
    "shared": ("SharedBase", "Variant"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
