"""The one guard for every path and output ref that comes from outside.

The checks look at the text alone and follow POSIX and Windows rules at once, so that a name is
accepted or refused alike on every machine; symbolic links are the opener's concern.
"""

from __future__ import annotations

import os
import re

from gen_worker.errors import ValidationError

__all__ = ["normalize_ref", "safe_join"]

_MAX_COMPONENT_BYTES = 255
_MAX_BYTES = 1024  # the longest key of an object store, and every file system has room for it
# Texts, which `re` compiles at their first use: a command that stores nothing saves a millisecond.
_DEVICE = r"(?i:con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])"
# Besides control codes: what reverses or breaks a line, so that a name shows as it is.
_CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
_DRIVE = r".:"  # to Windows any character is one, not only letters
_LEADING = r"\A[\s/]+"
_URL = r"[A-Za-z][A-Za-z0-9+.-]*://"


def safe_join(root: str | os.PathLike[str], relative: str) -> str:
    """Join a path from outside below `root`, by its text alone.

    Empty and `.` components are dropped; `/` is the only separator.

    Raises:
        ValidationError: The path is absolute, has a `..`, a drive, a backslash, a device name such
            as `NUL`, a component that ends in a dot or space or is over 255 bytes, or a control
            character; it has over 1,024 bytes; or it names `root` itself.
    """
    problem = _problem_of(relative)
    if problem is not None:
        raise ValidationError(f"path {relative!r:.300} {problem}: give a plain relative path")
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    return os.path.join(os.fspath(root), *parts)


def _problem_of(relative: str) -> str | None:
    if len(relative) > _MAX_BYTES or len(relative.encode(errors="replace")) > _MAX_BYTES:
        return f"has more than {_MAX_BYTES} bytes"
    if "\\" in relative:
        return "has a backslash"
    if relative.startswith("/"):
        return "is absolute"
    if re.search(_CONTROL, relative):
        return "has a control character"
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if not parts:
        return "names no file"
    return next((found for part in parts if (found := _component_problem(part))), None)


def _component_problem(part: str) -> str | None:
    if part == "..":
        return "leaves its directory"
    if re.match(_DRIVE, part):
        return "has a drive letter"
    if part[-1] in ". ":
        return f"has {part!r}, which ends in a dot or space"
    if re.fullmatch(_DEVICE, part.partition(".")[0].rstrip(" ")):
        return f"has {part!r}, a device name on Windows"
    if os.name == "nt" and set(part) & set('<>:"|?*'):
        return f"has {part!r}, which Windows cannot store"
    if len(part.encode()) > _MAX_COMPONENT_BYTES:
        return f"has a component of more than {_MAX_COMPONENT_BYTES} bytes"
    return None


def normalize_ref(ref: str) -> str:
    """Return an output ref without surrounding space and leading slashes.

    Raises:
        ValidationError: Nothing is left, or it is a URL.
    """
    if not isinstance(ref, str):
        raise ValidationError(f"an output ref must be text, not {ref!r}")
    normal = re.sub(_LEADING, "", ref).rstrip()
    if not normal:
        raise ValidationError(f"output ref {ref!r} is empty: name the file, such as 'image.png'")
    if re.match(_URL, normal):
        raise ValidationError(f"output ref {ref!r} is a URL: name the file, such as 'image.png'")
    return normal
