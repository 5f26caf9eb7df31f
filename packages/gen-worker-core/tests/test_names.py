"""Slugs: one algorithm for endpoint, function and stage names."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.names import MAX_SLUG_CHARS, slugify_name


@pytest.mark.parametrize(
    ("raw", "slug"),
    [
        ("medasr_transcribe", "medasr-transcribe"),
        ("My Fn!", "my-fn"),
        ("a__b", "a-b"),
        ("v1.2", "v1.2"),
        ("..x..", "x"),
        ("  -Spaced- ", "spaced"),
        ("a-.b", "a-.b"),
        ("é", ""),
        ("!!", ""),
        ("", ""),
        ("x" * 127 + "--y", "x" * 127),
    ],
)
def test_slug_of(raw: str, slug: str) -> None:
    assert slugify_name(raw) == slug


@given(st.text())
def test_slug_is_routable_and_stable(raw: str) -> None:
    slug = slugify_name(raw)
    assert set(slug) <= set(string.ascii_lowercase + string.digits + ".-")
    assert len(slug) <= MAX_SLUG_CHARS
    assert slug == slug.strip("-.")
    assert "--" not in slug
    assert slugify_name(slug) == slug


@given(st.from_regex(r"[a-z][a-z0-9_]{0,40}", fullmatch=True))
def test_python_names_differ_only_in_underscores(name: str) -> None:
    assert slugify_name(name).split("-") == [part for part in name.split("_") if part]
