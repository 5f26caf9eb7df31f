"""Every code of a problem outside decorators, with its meaning in one line.

Those of decorators are `gen_worker.endpoint.problems.DEFINITION_CODES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DISCOVERY_CODES", "LOCK_CODES", "PROJECT_CODES"]

PROJECT_CODES: Mapping[str, str] = {
    # the file
    "toml_missing": "There is no endpoint.toml.",
    "toml_unreadable": "endpoint.toml cannot be opened, or is no regular file.",
    "toml_too_large": "endpoint.toml has more than 256 KiB.",
    "toml_encoding": "endpoint.toml is not UTF-8.",
    "toml_syntax": "endpoint.toml is not valid TOML.",
    "control_character": "A key or a text contains a control character, such as a line break.",
    # its keys
    "unknown_key": "There is no such key.",
    "moved_key": "The key was renamed, or is said elsewhere now.",
    "missing_key": "A required key is missing.",
    "wrong_type": "A value has the wrong type, such as a number that must be in quotes.",
    "bad_value": "A value has the right type and is not allowed.",
    "contradiction": "Two keys exclude each other.",
    "empty_slug": "Nothing routable is left of a name.",
    # what they speak of
    "duplicate_profile": "Two profiles have the same name.",
    "bad_ref": "A model ref is not `owner/repo`, `owner/repo:tag` or `owner/repo@digest`.",
    "bad_attributes": "The attributes of a model are not text, empty, or several have many values.",
    "no_dockerfile": "There is no Dockerfile, and the profile does not say enough to write one.",
}

DISCOVERY_CODES: Mapping[str, str] = {
    # importing
    "main_missing": "The module that `main` names does not exist.",
    "module_missing": "A module imports another one of the project that does not exist.",
    "package_missing": "A module imports a package that is not installed.",
    "module_shadowed": "Another module of the same name was imported instead of the project's.",
    "syntax_error": "A module is not valid Python.",
    "import_fails": "A module raises an exception while it is imported.",
    "import_exits": "A module ends the program while it is imported.",
    "import_crashes": "The process died while a module was imported.",
    "import_timeout": "Importing took longer than allowed.",
    # functions
    "nothing_found": "The project defines no endpoint function.",
    "duplicate_function": "Two functions, or two tables of endpoint.toml, share a routable name.",
    "return_missing": "A function that returns one value does not say which type.",
    "prompt_role": "A prompt marker stands on something that is not text.",
    "expected_output": "An ExpectedOutput names a field that does not exist, or an unusable value.",
    "schema": "A payload or output type has no JSON Schema, or a limit in it is on another type.",
    "not_text": "A text of a function is not valid Unicode.",
    # functions against endpoint.toml
    "unknown_function": "A table of endpoint.toml names a function that does not exist.",
    "unknown_payload_field": "batch_dimension names a field the payload does not have.",
    "model_key_missing": "A function takes a model that `[models]` does not have.",
    "model_keyspace_missing": "A function lets the payload choose a model, but there are none.",
}

LOCK_CODES: Mapping[str, str] = {
    "lock_missing": "There is no endpoint.lock.",
    "lock_invalid": "endpoint.lock cannot be read, or is no lock.",
    "lock_version": "endpoint.lock was written by a newer gen-worker.",
    "failed": "A file could not be written, or a setting could not be understood.",
}
