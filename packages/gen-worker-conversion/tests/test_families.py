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


# Facts that others rely on


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize(
    ("resolve", "given", "family"),
    [
        *((kohya_to_family, one, "sd15") for one in words(
            "sd_v1 sd_v1.5 stable-diffusion-v1 stable-diffusion-v1-5 stable-diffusion-1-5")),
        *((kohya_to_family, one, "sd2") for one in words(
            "sd_v2 sd_v2.0 sd_v2.1 stable-diffusion-v2-1")),
        *((kohya_to_family, one, "sdxl") for one in words(
            "sdxl_base_v1 sdxl_base_v0_9 stable-diffusion-xl-1.0 stable-diffusion-xl-base-1.0")),
        *((kohya_to_family, one, "flux.2-klein-4b") for one in words(
            "flux2 flux2-klein flux2-klein-4b flux.2-klein-4b a-flux.2-thing")),
        *((kohya_to_family, one, "flux.2-klein-9b") for one in words(
            "flux2-klein-9b flux.2-klein-9b")),
        (kohya_to_family, "sd-v2-custom", "sd2"),
        (kohya_to_family, "sd3", "sd3-medium"),
        *((repo_to_family, f"stabilityai/stable-diffusion-xl-{one}", "sdxl") for one in words(
            "base-1.0 base-0.9 refiner-1.0")),
        (repo_to_family, "ByteDance/Hyper-SD", "sdxl-hyper"),
        (repo_to_family, "meta-llama/Meta-Llama-3-8B", "llama-3-8b"),
        (repo_to_family, "Qwen/Qwen2.5-7B-Instruct", "qwen-2-5-7b"),
        (repo_to_family, "Wan-AI/Wan2.2-T2V-A14B", "wan22"),
        *((civitai_to_family, f"SD 2.{one}", "sd2") for one in "01"),
        *((civitai_to_family, f"PixArt {one}", "pixart-sigma") for one in ("Σ", "sigma")),
        (civitai_to_family, "Flux.2", "flux.2-klein-4b"),
        (civitai_to_family, "SD 3.5 Large Turbo", "sd35-large-turbo"),
        (civitai_to_family, "Other", "other"),
    ],
)  # fmt: skip
def test_the_tables_say_what_the_hub_expects(
    resolve: Callable[[str], str | None], given: str, family: str
) -> None:
    assert resolve(given) == family


def test_there_are_as_many_families_as_the_hub_knows() -> None:
    assert len(FAMILIES) == 77
