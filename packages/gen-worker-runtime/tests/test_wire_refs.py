"""An entry is found by every spelling of its ref that an orchestrator may mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.runtime.wire import ref_index

DIGEST = "blake3:" + "0" * 64
OTHER_DIGEST = "blake3:" + "1" * 64


@pytest.mark.parametrize("given_ref", ["a/b", "a/b:prod", "a/b:latest", "A/B", " a/b:prod "])
def test_the_default_tag_is_found_by_each_of_its_names(given_ref: str) -> None:
    index = ref_index({given_ref: 1})
    assert index[given_ref] == index["a/b:prod"] == index["a/b:latest"] == 1


def test_another_tag_is_found_by_its_own_name_alone() -> None:
    assert set(ref_index({"a/b:v2": 1})) == {"a/b:v2"}


@pytest.mark.parametrize("flavor", ["", "#bf16"])
def test_a_digest_is_found_by_the_tags_of_its_repository_and_flavor(flavor: str) -> None:
    index = ref_index({f"a/b@{DIGEST}{flavor}": 1})
    assert set(index) == {f"a/b@{DIGEST}{flavor}", f"a/b:prod{flavor}", f"a/b:latest{flavor}"}


def test_an_entry_of_its_own_comes_before_every_alias() -> None:
    pinned = f"a/b@{DIGEST}"
    for entries in (
        {pinned: 1, "a/b:latest": 2, "a/b:prod": 3},
        {"a/b:prod": 3, "a/b:latest": 2, pinned: 1},
    ):
        assert ref_index(entries) == entries


def test_an_alias_of_a_tag_comes_before_one_of_a_digest() -> None:
    index = ref_index({f"a/b@{DIGEST}": 1, "a/b:latest": 2})
    assert (index["a/b:prod"], index["a/b:latest"]) == (2, 2)


def test_of_two_digests_the_first_answers_for_the_tags() -> None:
    index = ref_index({f"a/b@{OTHER_DIGEST}": 1, f"a/b@{DIGEST}": 2})
    assert index["a/b:prod"] == 1
    assert index[f"a/b@{DIGEST}"] == 2


@pytest.mark.parametrize("key", ["4201", "versions/5", "Owner/Repo@main", "hf:a/b", "", "a/b@x:y"])
def test_a_key_of_another_provider_or_of_none_stays_as_it_is(key: str) -> None:
    assert ref_index({key: 1})[key] == 1


@given(st.dictionaries(st.text(max_size=30), st.integers()))
def test_every_entry_keeps_its_key(entries: dict[str, int]) -> None:
    index = ref_index(entries)
    assert all(index[key] == value for key, value in entries.items())
