"""Configurations without what makes a library fetch or run code.

`trust_remote_code=False` has not been a boundary: keys of a configuration overrode it
(CVE-2026-4372, CVE-2026-5241). So the keys go, whatever the libraries promise.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.models.formats.damage import DamagedFileError
from gen_worker.models.formats.plain_files import files_below, open_plain, read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ConfigChange", "config_changes", "read_config", "sanitize_config"]

_MAX_BYTES = 16_000_000
_MAX_DEPTH = 64

_CONFIG = re.compile(r"config|model_index|modules", re.IGNORECASE)
"""In the names that libraries read as configurations."""
_NO_CONFIG = re.compile(r"vocab\.json|tokenizer\.json|added_tokens\.json|.*\.index\.json")
"""Their keys are words of a vocabulary, or tensors: whatever they are called, they stay."""

_CODE_KEY = re.compile(
    r"auto_map|trust_remote_code|trust_remote_kernels|code_revision"
    r"|_?custom_pipelines?|custom_pipeline_path|custom_generate|_?custom_modules?"
    r"|_?(attn|attention|experts|moe)_implementation(_\w+)?"
    r"|use_kernels|allow_all_kernels|kernel_config|kernels?_repo\w*|kernel_mapping|hub_kernels?",
    re.IGNORECASE,
)


class ConfigChange(NamedTuple):
    """A configuration of a snapshot that must not be read as it is."""

    path: str
    """Relative to the snapshot's directory."""
    config: Any
    """What to read instead."""
    removed: tuple[str, ...]
    """JSON paths of what is not in it."""

    @property
    def text(self) -> bytes:
        """`config` as a file's content."""
        import json  # it writes `NaN`, which configurations have and msgspec refuses

        return (json.dumps(self.config, indent=2, ensure_ascii=False) + "\n").encode()


def sanitize_config(config: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a configuration without what leads to foreign code, and the JSON paths that went.

    Removed at any depth: `auto_map`, `trust_remote_code`, `custom_pipeline(s)`, every
    `*attn_implementation*` and `*experts_implementation*`, and names of kernel repositories. All
    else stays as it is, in its order. The argument is not changed.
    """
    removed: list[str] = []
    return _cleaned(config, "$", removed), tuple(removed)


def _cleaned(value: Any, place: str, removed: list[str]) -> Any:
    if isinstance(value, list):
        return [_cleaned(item, f"{place}[{index}]", removed) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    removed.extend(f"{place}.{key}" for key in value if _CODE_KEY.fullmatch(key))
    return {
        key: _cleaned(item, f"{place}.{key}", removed)
        for key, item in value.items()
        if not _CODE_KEY.fullmatch(key)
    }


def config_changes(directory: str | os.PathLike[str]) -> Iterator[ConfigChange]:
    """Yield each configuration below `directory` that needs a change; no file is changed.

    A loader writes `ConfigChange.text` into a directory of its own, beside links to the rest.

    Raises:
        DamagedFileError: A configuration is too large, malformed or nested too deeply.
    """
    root = os.fspath(directory)
    for path, relative in files_below(root):
        name = os.path.basename(relative)
        if not name.endswith(".json") or _NO_CONFIG.fullmatch(name):
            continue
        try:
            config = read_config(path)
        except DamagedFileError:
            if _CONFIG.search(name):
                raise
            continue  # no library takes it for a configuration
        clean, removed = sanitize_config(config)
        if removed:
            yield ConfigChange(relative, clean, removed)


def read_config(path: str) -> Any:
    """Return the JSON in a file, read as the libraries do, `NaN` included.

    Raises:
        OSError: The file cannot be opened.
        DamagedFileError: It is too large, malformed or nested deeper than 64 levels.
    """
    import json

    with open_plain(path) as (descriptor, size_bytes):
        if size_bytes > _MAX_BYTES:
            problem = f"a configuration of {size_bytes} bytes, at most {_MAX_BYTES} are allowed"
            raise DamagedFileError(
                path, "header_size", problem, expected=_MAX_BYTES, actual=size_bytes
            )
        text = read_exactly(descriptor, size_bytes, 0)
    try:
        config = json.loads(text.decode())
        _refuse_depth(config)
    except (ValueError, RecursionError) as error:
        problem = f"the configuration cannot be read, {error}"
        raise DamagedFileError(path, "header_syntax", problem) from error
    return config


def _refuse_depth(value: Any, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise RecursionError(f"nested deeper than {_MAX_DEPTH} levels")
    children = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list)):
        for child in children:
            _refuse_depth(child, depth + 1)
