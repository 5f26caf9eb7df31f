"""What is known of each function before its first job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ModelResolutionError
from gen_worker.models.choice import ModelChoice
from gen_worker.runtime.wire import DeltaForm
from gen_worker.runtime.worker.observing import ScalingFactors
from gen_worker.spec import payload_type_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.wire import JobRequest, ResolvedModel
    from gen_worker.spec import FunctionSpec, ModelParameter

__all__ = ["Served", "served_functions"]

_DESTINATIONS = frozenset({"destination", "destination_repo"})
_decode = msgspec.msgpack.Decoder().decode


class Served:
    """One function as jobs meet it."""

    __slots__ = (
        "_payload_type",
        "factors",
        "form",
        "is_streamed",
        "name",
        "names_destination",
        "needs_gpu",
        "spec",
    )

    def __init__(self, spec: FunctionSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.needs_gpu = spec.resources.needs_gpu
        self.is_streamed = spec.is_streamed and spec.kind == "inference"
        self.form = DeltaForm(spec.name, spec.delta_type)
        self._payload_type = payload_type = payload_type_of(spec)
        factors = ScalingFactors(spec, payload_type)
        self.factors = factors if factors else None
        """None where the cost of a call depends on nothing."""
        fields = getattr(payload_type, "__struct_encode_fields__", ())
        self.names_destination = spec.kind != "inference" or not _DESTINATIONS.isdisjoint(fields)
        """Whether a payload may say where the job publishes."""

    def __repr__(self) -> str:
        return f"<Served {self.spec.name}>"

    def hints_of(self, request: JobRequest) -> Mapping[str, Any]:
        """Return the hints of a job: the orchestrator's, below what the job itself says."""
        derived = {"job_id": request.job_id} if request.job_id else {}
        if self.names_destination and (destination := _destination_in(request.payload)):
            derived["destination_repo"] = destination
        return {**request.hints, **derived} if derived else request.hints

    def keys_of(self, request: JobRequest) -> set[str]:
        """Return which models a job selects, by their keys and by their slots.

        What the orchestrator resolved for the job is left out, and a payload that is not what the
        function takes selects nothing: the engine will say why.
        """
        try:
            payload = msgspec.msgpack.decode(request.payload, type=self._payload_type)
            keys: set[str] = set()
            for name, parameter in self.spec.bindings.items():
                slot = parameter.binding.slot_name or name
                if slot in request.models or name in request.models:
                    continue
                choice = parameter.binding.choose(name, payload, None)
                keys |= {name, slot, str(choice.get("key") or "")}
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
            return set()
        return keys

    def models_of(self, request: JobRequest) -> dict[str, Any]:
        """Return what the orchestrator resolved, by parameter.

        What says the same as the function's own binding is left out, so that a class is not set
        up once more for it.
        """
        found = {}
        for name, parameter in self.spec.bindings.items():
            slot = parameter.binding.slot_name or name
            resolved = request.models.get(slot) or request.models.get(name)
            if resolved is None:
                continue
            record = _record(resolved)
            if parameter.binding.is_per_call or not _is_declared(parameter, record):
                found[name] = record
        return found


def served_functions(functions: Mapping[str, FunctionSpec]) -> dict[str, Served]:
    """Return every function of a worker by slug."""
    return {name: Served(spec) for name, spec in functions.items()}


def _destination_in(payload: bytes) -> str:
    try:
        table = _decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
    if not isinstance(table, dict):
        return ""
    destination = table.get("destination")
    ref = destination.get("ref") if isinstance(destination, dict) else None
    legacy = table.get("destination_repo")
    return next((text for text in (ref, legacy) if isinstance(text, str) and text), "")


def _is_declared(parameter: ModelParameter, record: Mapping[str, Any]) -> bool:
    """Tell whether a model is the one its binding names, as nobody but its owner chose it."""
    try:
        chosen = ModelChoice.from_record(record)
        declared = ModelChoice.from_record(parameter.binding.choose(parameter.name, {}, None))
        is_same = chosen.target == declared.target
    except (ValueError, ModelResolutionError):
        return False  # the engine says what is wrong with it
    return is_same and not chosen.is_callers and not chosen.loras


def _record(resolved: ResolvedModel) -> dict[str, Any]:
    """Return a model as choices are written; what the wire leaves out is left out."""
    record = {
        name: value
        for name, value in msgspec.structs.asdict(resolved).items()
        if value and name != "loras"
    }
    loras = [
        {name: value for name, value in msgspec.structs.asdict(lora).items() if value}
        for lora in resolved.loras
    ]
    return record | ({"loras": loras} if loras else {})
