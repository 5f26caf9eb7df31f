"""Which environment variables an endpoint may be given by its owner."""

from __future__ import annotations

import re

__all__ = ["tenant_name_problem"]

RESERVED_TENANT_NAMES = frozenset("PATH HOME USER SHELL PWD TERM HOSTNAME LANG".split())
RESERVED_TENANT_PREFIXES = (
    "WORKER_",
    "HF_",
    "TENSORHUB_",
    "ORCHESTRATOR_",
    "TRAINER_",
    "RUNPOD_",
    "LC_",
    "CUDA_",
    "NVIDIA_",
    "PYTHON",
    "LD_",
)


def tenant_name_problem(name: str) -> str | None:
    """Return why an endpoint may not be given an environment variable of this name, else None."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return f"{name!r} is no name of an environment variable: use letters, digits and _"
    if name in RESERVED_TENANT_NAMES:
        return f"{name!r} is reserved: it belongs to the system"
    prefix = next((prefix for prefix in RESERVED_TENANT_PREFIXES if name.startswith(prefix)), "")
    return (
        f"{name!r} is reserved: names that begin with {prefix} are the platform's"
        if prefix
        else None
    )
