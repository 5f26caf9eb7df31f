"""Families: every table leads to one that exists, and nothing unknown is guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gen_worker.conversion.classify.families import (
    FAMILIES,
    civitai_to_family,
    is_canonical_family,
    kohya_to_family,
    repo_to_family,
    tags_to_family,
)
from gen_worker.conversion.classify.family_tables import (
    CIVITAI,
    KOHYA,
    KOHYA_PARTS,
    REPOSITORIES,
    TAGS,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def test_every_table_leads_to_a_family_that_exists() -> None:
    named = {*REPOSITORIES.values(), *KOHYA.values(), *CIVITAI.values(), *TAGS.values()}
    named.update(family for _, family in KOHYA_PARTS)
    assert named <= FAMILIES


def test_families_are_written_in_one_way() -> None:
    assert all(name == name.lower() and "_" not in name for name in FAMILIES)
    assert is_canonical_family("sdxl")
    assert not is_canonical_family("SDXL")


@pytest.mark.parametrize(
    ("resolve", "given", "family"),
    [
        (repo_to_family, "stabilityai/Stable-Diffusion-XL-Base-1.0", "sdxl"),
        (repo_to_family, "black-forest-labs/flux.1-dev", "flux1-dev"),
        (repo_to_family, "somebody/flux", None),
        (kohya_to_family, "SDXL Base v1", "sdxl"),
        (kohya_to_family, "sd_v1", "sd15"),
        (kohya_to_family, "my-sdxl-thing", "sdxl"),
        (kohya_to_family, "sd3.5-large", "sd35-large"),
        (kohya_to_family, "another", None),
        (civitai_to_family, " SD 1.5 ", "sd15"),
        (civitai_to_family, "Flux.1 S", "flux1-schnell"),
        (civitai_to_family, "sd 1.5", None),
    ],
)
def test_what_others_call_a_family(
    resolve: Callable[[str], str | None], given: str, family: str | None
) -> None:
    assert resolve(given) == family


def test_the_first_known_tag_counts() -> None:
    assert tags_to_family(["image", "Flux", "sdxl"]) == "flux1-dev"
    assert tags_to_family(["image"]) is None
