"""Whether a quantization is calibrated with a dataset: what a scheme allows, and what is done."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from gen_worker.endpoint.options import read_calibration
from gen_worker.endpoint.problems import Findings

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CalibrationAction",
    "CalibrationPolicy",
    "lookup_policy",
    "resolve_calibration_action",
    "validate_policy_map",
]

CalibrationPolicy = Literal["required", "beneficial", "unsupported"]
CalibrationAction = Literal["calibrate", "dummy", "skip"]

_EVERY = "*"
_log = logging.getLogger("gen_worker.conversion")


def validate_policy_map(fn_name: str, value: Any) -> dict[str, str]:
    """Return a policy for each scheme; one text is the policy of all, under `*`.

    Args:
        fn_name: Whose policies these are, for the error.
        value: A mapping, a text or None.

    Raises:
        TypeError: It is something else, or names another policy.
    """
    findings = Findings(fn_name)
    policies = read_calibration(value, findings)
    findings.raise_if_any()
    return dict(policies or {})


def lookup_policy(policies: Mapping[str, str] | None, scheme: str) -> str | None:
    """Return the policy of a scheme, else that of all, else None."""
    found = policies or {}
    return found.get(scheme, found.get(_EVERY))


def resolve_calibration_action(
    policy: str,
    *,
    has_dataset: bool,
    skip_calibration: bool = False,
    allow_dummy: bool = False,
    scheme: str = "",
) -> CalibrationAction:
    """Return what to do; data that are made up, and data that are left out, are warned of.

    Args:
        policy: Of the scheme.
        has_dataset: Whether the job brings data.
        skip_calibration: The job does without where that is allowed.
        allow_dummy: Made-up data may stand in for missing ones.
        scheme: For messages.

    Raises:
        ValueError: The policy and the job contradict one another; the message says what to change.
    """
    name = f"scheme {scheme!r}" if scheme else "this scheme"
    if policy == "unsupported":
        if has_dataset:
            raise ValueError(f"{name} cannot be calibrated: leave the datasets out")
        return "skip"
    if has_dataset and not (policy == "beneficial" and skip_calibration):
        return "calibrate"
    if not has_dataset and allow_dummy:
        _log.warning("%s is calibrated with made-up data: expect less than with yours", name)
        return "dummy"
    if policy == "beneficial" and skip_calibration:
        _log.warning("%s is not calibrated, as asked: expect less than with data", name)
        return "skip"
    raise ValueError(
        f"{name} needs a dataset to be calibrated with: give one in `datasets`"
        + (", or set skip_calibration" if policy == "beneficial" else "")
    )
