"""Jobs with a parameter `payload: Struct`, which is the whole payload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.spec import ContextParameter, whole_payload_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.engine.payloads import Message
    from gen_worker.spec import FunctionSpec

__all__ = ["whole_decoder"]

_FIELD = "payload"
_OF_THE_KIND = ("source", "destination", "destination_repo", "specs", "datasets", "outputs")


def whole_decoder(spec: FunctionSpec, decode: Callable[[Message], Any]) -> Callable[[Message], Any]:
    """Return a decoder that takes a payload without the field `payload` as that field.

    Args:
        spec: Has the parameter.
        decode: Decodes all of its fields.
    """
    struct = whole_payload_of(spec)
    assert struct is not None, "asked before"
    own = {one.encode_name for one in msgspec.structs.fields(struct)}
    names = {p.name for p in spec.parameters if not isinstance(p, ContextParameter)}
    others = (names | {*_OF_THE_KIND}) - own
    """What says nothing to the struct, which may forbid what it does not know."""

    def decode_whole(message: Message) -> Any:
        module: Any = msgspec.json if message.is_json else msgspec.msgpack
        try:
            table = module.decode(message.data, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return decode(message)  # which says what is wrong
        if _FIELD in table:
            return decode(message)
        whole = {name: raw for name, raw in table.items() if name not in others}
        data = module.encode({**table, _FIELD: whole})
        try:
            return decode(msgspec.structs.replace(message, data=data))
        except ValidationError as error:
            path = error.path.replace(f"$.{_FIELD}", "$", 1)
            text = str(error).replace(f"`$.{_FIELD}", "`$")
            raise ValidationError(text, path=path) from error

    return decode_whole
