from __future__ import annotations

import sys

import pytest

from gen_worker.host_requirements import Gpu, HostFacts, is_importable, missing_host_requirements
from gen_worker.resources import ResourceRequirements, Resources

BARE = HostFacts()
SMALL = HostFacts((Gpu(vram_gb=8.0, compute_capability=7.5),))
LARGE = HostFacts((Gpu(vram_gb=24.0, compute_capability=8.9),))
MIXED = HostFacts((Gpu(24.0, 7.5), Gpu(8.0, 8.9)))
UNREAD = HostFacts((Gpu(24.0, None),))


def reasons(resources: Resources | ResourceRequirements, host: HostFacts) -> list[str]:
    gaps = missing_host_requirements(resources, host, has_library=lambda name: name != "absent")
    return [gap.reason for gap in gaps]


@pytest.mark.parametrize(
    ("resources", "host", "expected"),
    [
        (Resources(), BARE, []),
        (Resources(accelerator="none"), BARE, []),
        (Resources(requires_gpu=True), BARE, ["cuda_unavailable"]),
        (Resources(accelerator="cuda"), BARE, ["cuda_unavailable"]),
        (Resources(min_vram_gb=1), BARE, ["cuda_unavailable"]),
        (Resources(min_compute_capability=1), BARE, ["cuda_unavailable"]),
        (Resources(requires_gpu=True), SMALL, []),
        (Resources(min_vram_gb=8), SMALL, []),
        (Resources(min_vram_gb=8.1), SMALL, ["insufficient_vram"]),
        (Resources(min_compute_capability=7.5), SMALL, []),
        (Resources(min_compute_capability=8.0), SMALL, ["compute_capability_unmet"]),
        (Resources(min_compute_capability=8.0), UNREAD, ["compute_capability_unmet"]),
        (Resources(min_compute_capability=8, min_vram_gb=24), LARGE, []),
        (Resources(min_compute_capability=9, min_vram_gb=80), LARGE, ["compute_capability_unmet"]),
        # One GPU has to meet everything: the large one is too old, the new one too small.
        (Resources(min_compute_capability=8, min_vram_gb=16), MIXED, ["insufficient_vram"]),
        (Resources(required_libraries=["present"]), BARE, []),
        (Resources(required_libraries=["absent"]), BARE, ["missing_optional_library"]),
        (
            Resources(requires_gpu=True, required_libraries=["absent"]),
            BARE,
            ["cuda_unavailable", "missing_optional_library"],
        ),
        (ResourceRequirements(min_vram_gb=80), LARGE, ["insufficient_vram"]),
        (ResourceRequirements(), BARE, []),
    ],
)
def test_reasons_come_in_the_order_of_the_checks(
    resources: Resources | ResourceRequirements, host: HostFacts, expected: list[str]
) -> None:
    assert reasons(resources, host) == expected


def test_details_name_what_is_needed_and_what_is_there() -> None:
    (gap,) = missing_host_requirements(Resources(min_vram_gb=40), LARGE)
    assert "40" in gap.detail
    assert "24" in gap.detail
    (gap,) = missing_host_requirements(Resources(min_compute_capability=9), UNREAD)
    assert "9.0" in gap.detail
    assert "unknown" in gap.detail


@pytest.mark.parametrize("name", ["msgspec", "MSGSPEC", "Msgspec", "gen-worker-core", "json.tool"])
def test_installed_modules_and_distributions_are_found_whatever_their_case(name: str) -> None:
    assert is_importable(name)


@pytest.mark.parametrize("name", ["no_such_library", "no-such-library", "", "..", "a b"])
def test_what_is_not_installed_is_not_found(name: str) -> None:
    assert not is_importable(name)


def test_looking_for_a_library_does_not_import_it() -> None:
    sys.modules.pop("this", None)
    assert is_importable("this")
    assert "this" not in sys.modules
