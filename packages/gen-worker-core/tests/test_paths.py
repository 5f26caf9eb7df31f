from __future__ import annotations

import os
import posixpath
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gen_worker.errors import ValidationError
from gen_worker.paths import normalize_ref, safe_join

ROOT = os.path.join(os.sep, "srv", "out")

# Text that likes to be a path: separators, dots, drives, devices, controls.
pieces = st.one_of(
    st.sampled_from(["..", ".", "", "/", "\\", "C:", "c:", "//srv/share", "\\\\?\\", "a:b"]),
    st.sampled_from(["NUL", "nul.txt", "COM1", "LPT\u00b9", "a ", "a.", " a", "...", "~"]),
    st.sampled_from(["\x00", "\x1f", "\u202e", "%2e%2e"]),
    st.text(max_size=6),
)
path_like = st.one_of(st.text(), st.lists(pieces, max_size=6).map("/".join))


@pytest.mark.parametrize(
    ("relative", "expected"),
    [
        ("a", "a"),
        ("a/b/c.png", "a/b/c.png"),
        ("./a//b/./c", "a/b/c"),
        ("a/", "a"),
        (".hidden/..data", ".hidden/..data"),
        ("~/a", "~/a"),
        ("%2e%2e/a", "%2e%2e/a"),
        ("jobs/req:1/outputs/image.png", "jobs/req:1/outputs/image.png"),
        ("console.txt", "console.txt"),
        ("com10", "com10"),
        ("grüße/日本.png", "grüße/日本.png"),
        ("a b/c d", "a b/c d"),
    ],
)
def test_plain_relative_paths_are_joined(relative: str, expected: str) -> None:
    assert safe_join(ROOT, relative) == posixpath.join(ROOT, expected)


def test_the_root_may_be_a_path_object(tmp_path: Path) -> None:
    assert safe_join(tmp_path, "a/b") == str(tmp_path / "a" / "b")


@pytest.mark.parametrize(
    ("relative", "reason"),
    [
        ("", "names no file"),
        (".", "names no file"),
        ("./", "names no file"),
        ("..", "leaves its directory"),
        ("a/../../b", "leaves its directory"),
        ("a/..", "leaves its directory"),
        ("/etc/passwd", "is absolute"),
        ("//server/share", "is absolute"),
        ("a\\b", "backslash"),
        ("\\\\server\\share", "backslash"),
        ("..\\..\\a", "backslash"),
        ("C:/Windows", "drive letter"),
        ("c:a", "drive letter"),
        ("a/D:b", "drive letter"),
        ("a\x00.png", "control character"),
        ("a\nb", "control character"),
        ("a\x7f", "control character"),
        ("a\x85b", "control character"),
        ("a\ud800", "control character"),
        ("exe.\u202egnp", "control character"),
        ("a\u2028b", "control character"),
        ("NUL", "device name"),
        ("a/con.txt", "device name"),
        ("aux .tar.gz", "device name"),
        ("COM1", "device name"),
        ("lpt9.log", "device name"),
        ("COM\u00b2", "device name"),
        ("CONIN$", "device name"),
        ("a.", "ends in a dot or space"),
        ("a /b", "ends in a dot or space"),
        ("...", "ends in a dot or space"),
        ("a/" + "b" * 256, "more than 255 bytes"),
        ("ü" * 128, "more than 255 bytes"),
        ("a/" * 512 + "b", "more than 1024 bytes"),
        ("a/" * 100_000, "more than 1024 bytes"),
        ("ü/" * 400, "more than 1024 bytes"),
    ],
)
def test_everything_else_is_refused_with_its_reason(relative: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        safe_join(ROOT, relative)


@given(path_like)
@example("a/../../../etc/passwd")
@example("C:..\\a")
@example("0:")
def test_the_result_is_always_inside_the_root(relative: str) -> None:
    try:
        joined = safe_join(ROOT, relative)
    except ValidationError:
        return
    assert joined.startswith(ROOT + os.sep)
    assert posixpath.normpath(joined) == joined
    assert Path(joined).is_relative_to(ROOT)
    inside = PureWindowsPath("D:/out") / joined.removeprefix(ROOT + os.sep)
    assert inside.is_relative_to("D:/out")
    assert ".." not in inside.parts
    os.fsencode(joined)


@given(path_like)
def test_joining_is_stable(relative: str) -> None:
    try:
        joined = safe_join(ROOT, relative)
    except ValidationError:
        return
    assert safe_join(ROOT, joined.removeprefix(ROOT + os.sep)) == joined


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("a.png", "a.png"),
        (" /a/b.png ", "a/b.png"),
        ("///a", "a"),
        ("/ a", "a"),
        (" / / /a", "a"),
        ("jobs/1/outputs/a", "jobs/1/outputs/a"),
        ("httpx/a", "httpx/a"),
        ("a/https://b", "a/https://b"),
    ],
)
def test_refs_lose_surrounding_space_and_leading_slashes(given_: str, expected: str) -> None:
    assert normalize_ref(given_) == expected


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "  ",
        "/",
        " // ",
        "http://a/b",
        "HTTPS://a",
        "/https://a",
        " / http://a",
        "file:///a",
        "S3://a/b",
    ],
)
def test_empty_refs_and_urls_are_refused(ref: str) -> None:
    with pytest.raises(ValueError, match="output ref"):
        normalize_ref(ref)


@given(st.text() | st.text(alphabet="/ a", max_size=9))
def test_a_normal_ref_is_its_own_normal_form(ref: str) -> None:
    try:
        normal = normalize_ref(ref)
    except ValidationError:
        return
    assert normalize_ref(normal) == normal
