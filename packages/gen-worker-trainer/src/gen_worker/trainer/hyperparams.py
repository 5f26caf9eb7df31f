"""The hyperparameters of a job as the record that its trainer has asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.trainer.errors import StartupContractError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["typed_hyperparams"]

_CODE = "startup.invalid_hyperparams"


def typed_hyperparams(trainer: Any, hyperparams: Mapping[str, Any]) -> Any:
    """Return the hyperparameters as the trainer's `hyperparams_type`; None where it has none.

    Raises:
        StartupContractError: They are not what it has fields for; every mistake is named.
        TypeError: `hyperparams_type` is no msgspec Struct.
    """
    wanted = getattr(trainer, "hyperparams_type", None)
    if wanted is None:
        return None
    if not (isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)):
        raise TypeError(
            f"hyperparams_type of {type(trainer).__name__} is {wanted!r}, and has to be a subclass "
            "of msgspec.Struct"
        )
    problems = [*_problems(wanted, hyperparams)]
    if not problems:
        fields = {one.encode_name for one in msgspec.structs.fields(wanted)}
        given = {name: value for name, value in hyperparams.items() if name in fields}
        try:
            return msgspec.convert(given, wanted, strict=False)
        except msgspec.ValidationError as error:  # of the record as a whole
            problems.append(str(error))
    raise StartupContractError(_CODE, "hyperparams: " + "; ".join(problems))


def _problems(wanted: type[msgspec.Struct], given: Mapping[str, Any]) -> Iterator[str]:
    fields = {one.encode_name: one for one in msgspec.structs.fields(wanted)}
    for name, field in fields.items():
        if name not in given:
            if field.required:
                yield f"{name} is missing"
            continue
        try:
            msgspec.convert(given[name], field.type, strict=False)
        except msgspec.ValidationError as error:
            yield f"{name}: {error}"
    if wanted.__struct_config__.forbid_unknown_fields:
        for name in given:
            if name not in fields:
                yield f"{name} is unknown, known are {', '.join(fields)}"
