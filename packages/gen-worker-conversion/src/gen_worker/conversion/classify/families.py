"""The family of a model, from what its publisher says of it. Nothing is guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.conversion.classify.family_tables import (
    CIVITAI,
    FAMILIES,
    KOHYA,
    KOHYA_PARTS,
    REPOSITORIES,
    TAGS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "FAMILIES",
    "civitai_to_family",
    "is_canonical_family",
    "kohya_to_family",
    "repo_to_family",
    "tags_to_family",
]


def is_canonical_family(name: str) -> bool:
    return name in FAMILIES


def repo_to_family(repo_id: str) -> str | None:
    """Return the family of a Hugging Face repository; None when it is not known.

    Args:
        repo_id: `owner/name`, in any case.
    """
    return REPOSITORIES.get(repo_id.strip().lower())


def kohya_to_family(base_model_version: str) -> str | None:
    """Return the family a trainer of kohya wrote into a LoRA's metadata; None when unknown.

    Args:
        base_model_version: The value of `ss_base_model_version`.
    """
    value = base_model_version.strip().lower().replace(" ", "_")
    if value in KOHYA:
        return KOHYA[value]
    return next((family for part, family in KOHYA_PARTS if part in value), None)


def civitai_to_family(base_model: str) -> str | None:
    """Return the family of civitai's `baseModel`; None when it is not known."""
    return CIVITAI.get(base_model.strip())


def tags_to_family(tags: Iterable[str]) -> str | None:
    """Return the family of the first known tag of a model card; None when there is none."""
    return next((TAGS[tag] for one in tags if (tag := one.strip().lower()) in TAGS), None)
