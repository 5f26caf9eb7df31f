"""Which functions can run here, and why the others cannot."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.host_requirements import is_importable, missing_host_requirements
from gen_worker.runtime.wire import FunctionCapabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from gen_worker.host_requirements import HostFacts
    from gen_worker.spec import FunctionSpec

__all__ = ["LOADING", "Availability", "Gate", "installed_libraries"]

LOADING = "models_loading"
REF_UNAVAILABLE = "binding_ref_unavailable"

_HARDWARE = frozenset(
    {
        "cuda_unavailable",
        "compute_capability_unmet",
        "insufficient_vram",
        "missing_optional_library",
        "hardware_unmet",
    }
)
_REPORTED_LIBRARIES = ("bitsandbytes", "flashpack", "torchao", "transformer_engine")
"""Those that orchestrators ask for; see `Resources.installed_libs`."""

_to_json = msgspec.json.Encoder(order="sorted").encode


class Gate(NamedTuple):
    """Why a function is not run."""

    reason: str
    detail: str = ""
    axes: Mapping[str, str] = {}
    """What there is and what it would take."""
    is_hardware: bool = False
    """Whether the machine is what is missing."""

    @property
    def error_type(self) -> str:
        """What a request for the function fails with."""
        is_hardware = self.is_hardware or self.reason in _HARDWARE
        return "hardware_unmet" if is_hardware else "function_unavailable"


class Availability:
    """The gates before every function of one worker. A function without one is advertised."""

    def __init__(
        self,
        functions: Mapping[str, FunctionSpec],
        host: HostFacts,
        *,
        has_library: Callable[[str], bool] = is_importable,
    ) -> None:
        """Look at every function once.

        Args:
            functions: By slug.
            host: What the machine has.
            has_library: Tells whether a module is installed.
        """
        self._functions = functions
        self._has_library = has_library
        self._host: dict[str, Gate] = {}
        self._disabled: Mapping[str, Gate] = {}
        self._own: dict[str, Gate] = {}
        self._models: Mapping[str, Gate] = {}
        self._gates: dict[str, Gate] = {}
        self.see(host)

    def __repr__(self) -> str:
        return f"<Availability {len(self.available)} of {len(self._functions)}, {self._gates}>"

    def gate(self, function: str) -> Gate | None:
        """Return why a function is not run; None when it is."""
        return self._gates.get(function)

    @property
    def available(self) -> tuple[str, ...]:
        """Functions that run now."""
        return tuple(name for name in self._functions if name not in self._gates)

    @property
    def loading(self) -> tuple[str, ...]:
        """Functions that will run once a model is here."""
        return tuple(name for name, gate in self._gates.items() if gate.reason == LOADING)

    # Where gates come from.

    def see(self, host: HostFacts) -> None:
        """Judge anew what the machine offers."""
        self._host = {
            name: Gate(gap.reason, gap.detail, gap.axes)
            for name, spec in self._functions.items()
            for gap in missing_host_requirements(
                spec.resources, host, has_library=self._has_library
            )[:1]
        }
        self._settle()

    def configure(self, disabled: Mapping[str, Gate]) -> None:
        """Take what the orchestrator disables, in place of what it disabled before."""
        self._disabled = disabled
        self._settle()

    def disable(self, function: str, gate: Gate) -> bool:
        """Disable a function for as long as this process lives; False when it was already."""
        if function in self._own:
            return False
        self._own[function] = gate
        self._settle()
        return True

    def await_models(self, loading: Collection[str], failed: Mapping[str, str]) -> None:
        """Say which functions wait for a model, and which have none they could run with.

        Args:
            loading: Functions.
            failed: By function the ref that cannot be had.
        """
        self._models = {
            **{
                name: Gate(REF_UNAVAILABLE, f"model {ref!r} cannot be had", {"ref": ref})
                for name, ref in failed.items()
            },
            **{name: Gate(LOADING, "its models are being fetched") for name in loading},
        }
        self._settle()

    @property
    def disabled_here(self) -> Mapping[str, Gate]:
        """What `disable` was told."""
        return self._own

    def _settle(self) -> None:
        """Work out the one gate of each function, the first in the order of who decides."""
        sources = (self._disabled, self._own, self._host, self._models)
        gates = {}
        for name in self._functions:
            gate = next((source[name] for source in sources if name in source), None)
            if gate is not None:
                gates[name] = gate
        self._gates = gates

    # What orchestrators are told.

    def capabilities(self) -> FunctionCapabilities:
        """Return what every function needs, and whether it can run."""
        table = {"functions": [self._capability(name) for name in sorted(self._functions)]}
        data = _to_json(table)
        return FunctionCapabilities(
            capabilities_json=data, signature=hashlib.sha256(data).hexdigest()
        )

    def _capability(self, name: str) -> dict[str, Any]:
        spec, gate = self._functions[name], self._gates.get(name)
        record = {**spec.resources.to_dict(), "function_name": name, "available": gate is None}
        if spec.owner is None:
            record["output_mode"] = spec.output_mode
        if gate is not None:
            record["unavailable_reason"] = gate.reason
            record["unavailable_detail"] = gate.detail
            record["unavailable_axes"] = dict(gate.axes)
        return record


def installed_libraries() -> tuple[str, ...]:
    """Return which of the libraries are installed that orchestrators ask for."""
    import importlib.util

    return tuple(name for name in _REPORTED_LIBRARIES if importlib.util.find_spec(name) is not None)
