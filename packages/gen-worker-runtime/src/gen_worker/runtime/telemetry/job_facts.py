"""What the payload of a request says about its cost: steps, guidance and the size of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.constraints import compile_clamps
from gen_worker.spec import payload_type_of

if TYPE_CHECKING:
    from gen_worker.spec import FunctionSpec

__all__ = ["NO_FACTS", "JobFacts", "PayloadFacts"]

_FIELDS = {
    "steps": ("num_inference_steps", "steps"),
    "guidance": ("guidance_scale", "guidance"),
    "width": ("width",),
    "height": ("height",),
}


class JobFacts(NamedTuple):
    """Of one payload, its defaults included; None where it has none."""

    steps: float | None = None
    guidance: float | None = None
    width: float | None = None
    height: float | None = None


NO_FACTS = JobFacts()


class PayloadFacts:
    """Reads payloads of one function. Most functions have none of the fields, and cost nothing."""

    def __init__(self, spec: FunctionSpec) -> None:
        payload_type = payload_type_of(spec)
        fields = getattr(payload_type, "__struct_fields__", ())
        self._names = {
            fact: next(name for name in names if name in fields)
            for fact, names in _FIELDS.items()
            if not set(names).isdisjoint(fields)
        }
        if self._names:
            self._decode = msgspec.msgpack.Decoder(payload_type).decode
            self._clamp = compile_clamps(payload_type)

    def __bool__(self) -> bool:
        return bool(self._names)

    def of(self, payload: bytes) -> JobFacts:
        """Return what a payload, in MessagePack, says; nothing when it cannot be read."""
        try:
            value = self._decode(payload)
            if self._clamp is not None:
                value = self._clamp(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return NO_FACTS
        found = {fact: _number(getattr(value, name, None)) for fact, name in self._names.items()}
        return JobFacts(**found)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number else None
