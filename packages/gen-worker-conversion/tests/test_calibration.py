"""Calibration: which policies there are, and what a job with or without data comes to."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.conversion.calibration import (
    CalibrationPolicy,
    lookup_policy,
    resolve_calibration_action,
    validate_policy_map,
)


@pytest.mark.parametrize(
    ("policy", "dataset", "options", "action"),
    [
        ("required", True, {}, "calibrate"),
        ("required", True, {"skip_calibration": True}, "calibrate"),
        ("required", False, {"allow_dummy": True}, "dummy"),
        ("beneficial", True, {}, "calibrate"),
        ("beneficial", True, {"skip_calibration": True}, "skip"),
        ("beneficial", False, {"allow_dummy": True}, "dummy"),
        ("beneficial", False, {"skip_calibration": True}, "skip"),
        ("unsupported", False, {}, "skip"),
    ],
)
def test_what_is_done(
    policy: CalibrationPolicy, dataset: bool, options: dict[str, Any], action: str
) -> None:
    assert resolve_calibration_action(policy, has_dataset=dataset, **options) == action


@pytest.mark.parametrize(
    ("policy", "dataset", "options", "said"),
    [
        ("required", False, {}, "needs a dataset"),
        ("required", False, {"skip_calibration": True}, "needs a dataset"),
        ("beneficial", False, {}, "skip_calibration"),
        ("unsupported", True, {}, "leave the datasets out"),
    ],
)
def test_what_is_refused(
    policy: CalibrationPolicy, dataset: bool, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        resolve_calibration_action(policy, has_dataset=dataset, scheme="fp8", **options)
    assert "'fp8'" in str(caught.value)


def test_one_policy_is_that_of_all_schemes() -> None:
    policies = validate_policy_map("quant", "required")
    assert lookup_policy(policies, "anything") == "required"


def test_a_scheme_of_its_own_comes_before_the_rest() -> None:
    policies = validate_policy_map("quant", {"fp8": "beneficial", "*": "unsupported"})
    assert lookup_policy(policies, "fp8") == "beneficial"
    assert lookup_policy(policies, "nf4") == "unsupported"
    assert lookup_policy({}, "fp8") is None


@pytest.mark.parametrize("wrong", [1, ["required"], {"fp8": "maybe"}, {"": "required"}, "maybe"])
def test_other_policies_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="quant"):
        validate_policy_map("quant", wrong)
