"""An orchestrator's map of refs answers however the default tag was spelled."""

from __future__ import annotations

import pytest

from gen_worker.models import parse_ref, wire_index


@pytest.mark.parametrize("given", ["acme/flux", "acme/flux:prod", "acme/flux:latest", "Acme/Flux"])
def test_default_tag_is_found_under_every_spelling(given: str) -> None:
    index = wire_index({given: "files"})
    assert set(index) == {given, "acme/flux:prod", "acme/flux:latest"}
    assert index[str(parse_ref("acme/flux"))] == "files"


def test_flavor_is_kept() -> None:
    assert wire_index({"a/b:latest#bf16": 1})["a/b:prod#bf16"] == 1


def test_other_tags_digests_and_foreign_refs_have_no_aliases() -> None:
    digest = f"a/b@blake3:{'0' * 64}"
    entries = {"a/b:dev": 1, digest: 2, "Owner/Repo@main": 3, "4201": 4}
    assert wire_index(entries) == entries


def test_an_entry_of_its_own_beats_an_alias() -> None:
    assert wire_index({"a/b:latest": "new", "a/b:prod": "old"}) == {
        "a/b:latest": "new",
        "a/b:prod": "old",
    }
    assert wire_index({"a/b:latest": "new", "a/b": "old"})["a/b:prod"] == "old"
