"""What a caller's name means, and what is said of one that means nothing."""

from __future__ import annotations

import re

import pytest

from gen_worker.errors import UnknownFunctionError, ValidationError
from gen_worker.runtime.scheduler.releases import TagTarget
from gen_worker.runtime.scheduler.releases.names import Directory, checked_tag

DIRECTORY = Directory(
    [
        TagTarget("acme", "paint", "prod", "draw", "r-1"),
        TagTarget("acme", "paint", "next", "draw", "r-2"),
        TagTarget("acme", "paint", "prod", "marco-polo", "r-1"),
        TagTarget("acme", "sketch", "prod", "draw", "r-3"),
        TagTarget("other", "sketch", "prod", "outline", "r-4"),
        TagTarget("other", "sketch", "next", "draw", "r-5"),
    ]
)


@pytest.mark.parametrize(
    ("name", "release_id", "full"),
    [
        ("acme/paint/draw", "r-1", "acme/paint/draw"),
        ("acme/paint/draw:prod", "r-1", "acme/paint/draw"),
        ("acme/paint/draw:next", "r-2", "acme/paint/draw"),
        ("paint/draw", "r-1", "acme/paint/draw"),
        ("sketch/draw", "r-3", "acme/sketch/draw"),
        ("sketch/draw:next", "r-5", "other/sketch/draw"),
        ("outline", "r-4", "other/sketch/outline"),
        ("marco_polo", "r-1", "acme/paint/marco-polo"),
        (" ACME/Paint/Marco Polo", "r-1", "acme/paint/marco-polo"),
    ],
)
def test_names_lead_to_releases(name: str, release_id: str, full: str) -> None:
    for _ in range(2):
        found = DIRECTORY.resolve(name)
        assert found.release_id == release_id
        assert f"{found.owner}/{found.endpoint}/{found.function}" == full


EXISTING = "'acme/paint/draw', 'acme/paint/marco-polo', 'acme/sketch/draw', 'other/sketch/draw'"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("draw", "may be one of several: call it 'acme/paint/draw' or 'acme/sketch/draw'"),
        ("draw:next", "call it 'acme/paint/draw' or 'other/sketch/draw'"),
        ("outline:next", "'outline' has no tag 'next': it has 'prod'"),
        ("paint/draw:beta", "'paint/draw' has no tag 'beta': it has 'next' and 'prod'"),
        ("acme/paint/drwa", "did you mean 'acme/paint/draw'"),
        ("marco-pollo", "did you mean 'marco-polo'?"),
        ("erase", f"there is no function 'erase': there are {EXISTING} and 'other/sketch/outline'"),
        ("", "names no function: write owner/endpoint/function"),
        ("acme//draw", "names no function"),
        ("a/b/c/d", "names no function"),
        ("acme/paint/draw:", "names no function"),
        ("!!", "names no function"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(name: str, said: str) -> None:
    with pytest.raises(UnknownFunctionError, match=re.escape(said)):
        DIRECTORY.resolve(name)


def test_nothing_is_there_at_first() -> None:
    with pytest.raises(UnknownFunctionError, match="'draw': none is deployed yet"):
        Directory().resolve("draw")


def test_many_names_are_not_listed_all() -> None:
    many = Directory(TagTarget("a", "e", "prod", f"f{number:03}", "r") for number in range(100))
    with pytest.raises(UnknownFunctionError, match="and 80 more"):
        many.resolve("zzz")
    for number in range(5000):
        name = f"f{number % 100:03}" + "-" * (number // 100)
        assert many.resolve(name).function == f"f{number % 100:03}"


@pytest.mark.parametrize("tag", ["", "Prod", "-x", "a b", "a/b", "a:b", "x" * 129, "é"])
def test_tags_are_plain(tag: str) -> None:
    with pytest.raises(ValidationError, match="is no tag"):
        checked_tag(tag)


def test_a_tag_may_be_a_version() -> None:
    assert checked_tag("v1.2_rc-3") == "v1.2_rc-3"
