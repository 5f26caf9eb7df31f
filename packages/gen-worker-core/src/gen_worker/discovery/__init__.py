"""Find an endpoint's functions, check them and write endpoint.lock.

`discover` imports a project in this process; `build_lock` does the same in a process of its own
that sees no GPU, and returns what belongs into endpoint.lock.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.discovery.discover import discover_functions as discover_functions
    from gen_worker.discovery.discover import discover_manifest as discover_manifest
    from gen_worker.discovery.discover import load_endpoint_toml as load_endpoint_toml
    from gen_worker.discovery.isolated import build_lock as build_lock
    from gen_worker.discovery.validation import EndpointValidationResult as EndpointValidationResult
    from gen_worker.discovery.validation import validate_endpoint as validate_endpoint
    from gen_worker.discovery.validation import validate_endpoint_lock as validate_endpoint_lock
    from gen_worker.discovery.walk import Discovery as Discovery
    from gen_worker.discovery.walk import DiscoveryError as DiscoveryError
    from gen_worker.discovery.walk import discover as discover
    from gen_worker.names import slugify_name as slugify_name
    from gen_worker.problems import Problem as Problem

# `gen-worker run` needs `discover` alone, so every name is imported when it is first asked for.
_MODULES = {
    # finding functions
    "discover": "gen_worker.discovery.walk",
    "Discovery": "gen_worker.discovery.walk",
    "DiscoveryError": "gen_worker.discovery.walk",
    "Problem": "gen_worker.problems",
    "discover_functions": "gen_worker.discovery.discover",
    # writing and checking the lock
    "build_lock": "gen_worker.discovery.isolated",
    "discover_manifest": "gen_worker.discovery.discover",
    "validate_endpoint_lock": "gen_worker.discovery.validation",
    # the project
    "load_endpoint_toml": "gen_worker.discovery.discover",
    "validate_endpoint": "gen_worker.discovery.validation",
    "EndpointValidationResult": "gen_worker.discovery.validation",
    "slugify_name": "gen_worker.names",
}

__all__ = [
    "Discovery",
    "DiscoveryError",
    "EndpointValidationResult",
    "Problem",
    "build_lock",
    "discover",
    "discover_functions",
    "discover_manifest",
    "load_endpoint_toml",
    "slugify_name",
    "validate_endpoint",
    "validate_endpoint_lock",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    __import__(_MODULES[name])
    value = getattr(sys.modules[_MODULES[name]], name)
    # `discover` is also the name of a submodule, which takes the attribute once it is imported.
    if name != "discover":
        globals()[name] = value
    return value
