"""Where an output is stored: the one rule from what an author writes to the stored ref."""

from __future__ import annotations

import os
import re

from gen_worker.errors import ValidationError
from gen_worker.paths import normalize_ref, safe_join

__all__ = ["auto_output_ref", "item_key", "output_ref", "output_root"]

_QUOTED = re.compile(r"[^A-Za-z0-9._~-]")


def output_root(request_id: str) -> str:
    """Return the directory of a call's outputs, `jobs/<request_id>/outputs/`.

    An id that is no plain file name is quoted, so that it cannot lead elsewhere.
    """
    return f"jobs/{_file_name(request_id)}/outputs/"


def output_ref(ref: str, request_id: str) -> str:
    """Return the ref an output is stored under, always below `output_root(request_id)`.

    A ref that is below it already stays as it is, so applying this twice changes nothing.

    Raises:
        ValidationError: `ref` is empty, a URL, leads out of the call's outputs, or is no path that
            every system can store.
    """
    path = _plain(normalize_ref(ref))
    root = output_root(request_id)
    return path if path.startswith(root) else _plain(root + path)


def _plain(path: str) -> str:
    return safe_join("", path).replace(os.sep, "/")


def auto_output_ref(index: int, local_path: str, request_id: str) -> str:
    """Return the ref of the `index`-th output that a handler returned without one."""
    name = f"{index:06d}-{os.path.basename(local_path)}"
    try:
        return output_ref(f"auto/{name}", request_id)
    except ValidationError:  # this system can store the name, others cannot
        return output_ref(f"auto/{_file_name(name)}", request_id)


def item_key(item_id: str | None, item_index: int | None) -> str:
    """Return the directory name of one item of a divided request."""
    return _file_name(item_id) if item_id else f"item-{item_index or 0:06d}"


def _file_name(text: str) -> str:
    """Turn any id into one file name; different ids get different names."""
    quoted = _QUOTED.sub(_percent, text)
    try:
        return safe_join("", quoted)
    except ValidationError:  # too long, a device, only dots, …
        from hashlib import sha256

        return "%" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))
