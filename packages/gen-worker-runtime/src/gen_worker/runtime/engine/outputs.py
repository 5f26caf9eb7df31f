"""Files of a call: those its payload names come in, those its result names are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.ports import SaveOptions
from gen_worker.types import Asset, StoredFile, Tensors

if TYPE_CHECKING:
    from gen_worker.file_values import FilePlan, FoundFile
    from gen_worker.ports import Files
    from gen_worker.runtime.engine.calls import RunningCall

__all__ = ["fetch_inputs", "has_local_files", "save_outputs"]

_MAX_PLACE_CHARS = 200
_URL_SCHEMES = ("http://", "https://", "file://")


async def fetch_inputs(call: RunningCall, plan: FilePlan, payload: Any) -> Any:
    """Return the payload with every file on this machine, fetched one after the other."""
    files = call.core.files
    fetched: dict[int, StoredFile] = {}
    for found in plan.find(payload, host=files.input_limits):
        call.token.raise_if_canceled()
        try:
            file = fetched[id(found.file)] = await _fetch(files, found, call.request_id)
        except ValidationError as error:
            error.path = error.path or place_of(found.file, payload)
            raise
        call.input_paths = call.input_paths | {file.local_path}
    return plan.replace(payload, fetched) if fetched else payload


def place_of(wanted: object, value: Any, place: str = "$") -> str:
    """Return the JSON path of an object inside a payload; empty where it is not found."""
    if value is wanted or len(place) > _MAX_PLACE_CHARS:
        return place if value is wanted else ""
    inside: list[tuple[str, Any]] = []
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        inside = [(f".{shown}", getattr(value, name)) for name, shown in names]
    elif isinstance(value, dict):
        inside = [(f"[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        inside = [(f"[{index}]", item) for index, item in enumerate(value)]
    found = (place_of(wanted, item, place + step) for step, item in inside)
    return next(filter(None, found), "")


async def _fetch(files: Files, found: FoundFile, request_id: str) -> StoredFile:
    file = found.file
    assert isinstance(file, (Asset, Tensors)), "payload types name one of the two"
    fetched = await files.materialize(file, found.limits, request_id=request_id)
    # A port may know only the base class; the handler was promised the annotated one.
    if type(fetched) is type(file) or isinstance(fetched, type(file)):
        return fetched
    return _as_type_of(file, fetched)


def _as_type_of(file: StoredFile, fetched: StoredFile) -> StoredFile:
    return type(file)(**msgspec.structs.asdict(fetched))


def has_local_files(plan: FilePlan, value: Any) -> bool:
    """Tell whether a handler's value names a file that is only on this machine so far."""
    return any(found.file.local_path for found in plan.find(value))


async def save_outputs(call: RunningCall, plan: FilePlan, value: Any) -> Any:
    """Return a handler's value with its local files stored and replaced by their records."""
    stored: dict[int, StoredFile] = {}
    for found in plan.find(value):
        if found.file.local_path:
            stored[id(found.file)] = await _save(call, found.file)
    return plan.replace(value, stored) if stored else value


async def _save(call: RunningCall, file: StoredFile) -> StoredFile:
    from pathlib import Path

    from gen_worker.context.refs import auto_output_ref, output_ref

    call.discard_if_canceled()
    local_path = str(file.local_path)
    # An input that is handed back still has the caller's ref, which names no output.
    if not file.ref or local_path in call.input_paths or file.ref.startswith(_URL_SCHEMES):
        ref = auto_output_ref(call.saved_files, local_path, call.request_id)
        call.saved_files += 1
    else:
        ref = output_ref(file.ref, call.request_id)
    options = SaveOptions(
        mime_type=getattr(file, "mime_type", None), checkpoint_format=_weights_format(file)
    )
    saved = await call.core.ports.files.save(
        ref, Path(local_path), options, request_id=call.request_id
    )
    return saved if isinstance(saved, type(file)) else _as_type_of(file, saved)


def _weights_format(file: StoredFile) -> str | None:
    if not isinstance(file, Tensors):
        return None
    from gen_worker.context.media import weights_format

    return file.format or weights_format(str(file.local_path)) or "unknown"
