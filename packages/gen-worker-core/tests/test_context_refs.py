"""Where outputs are stored."""

from __future__ import annotations

import os
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.context.refs import auto_output_ref, item_key, output_ref, output_root

REFS = st.one_of(
    st.text(),
    st.text(alphabet="a/.\\: \t\x00~Cé-", max_size=30),
    st.lists(st.sampled_from(["..", ".", "", "a", "b.png", "C:", "nul", "jobs", "t"])).map(
        "/".join
    ),
)
IDS = st.one_of(st.text(), st.sampled_from([".", "..", "", "a/b", "../..", "nul", "t", "a."]))


@pytest.mark.parametrize(
    ("ref", "stored"),
    [
        ("image.png", "jobs/t/outputs/image.png"),
        ("  image.png ", "jobs/t/outputs/image.png"),
        ("/image.png", "jobs/t/outputs/image.png"),
        ("//a//b/./c.png", "jobs/t/outputs/a/b/c.png"),
        ("dir/", "jobs/t/outputs/dir"),
        ("jobs/t/outputs/x/y", "jobs/t/outputs/x/y"),
        ("/jobs/t/outputs/x", "jobs/t/outputs/x"),
        ("jobs/other/outputs/x", "jobs/t/outputs/jobs/other/outputs/x"),
        ("jobs/t/outputs", "jobs/t/outputs/jobs/t/outputs"),
        ("outputs/t/x", "jobs/t/outputs/outputs/t/x"),
        ("bild größe.png", "jobs/t/outputs/bild größe.png"),
        ("model:v1.png", "jobs/t/outputs/model:v1.png"),
    ],
)
def test_every_output_is_below_its_call(ref: str, stored: str) -> None:
    if os.name == "nt" and ":" in ref:
        pytest.skip("Windows cannot store this name")
    assert output_ref(ref, "t") == stored


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "   ",
        "/",
        "http://x/y",
        "HTTPS://x/y",
        " https://x",
        "/http://x",
        "..",
        "../x",
        "a/../../x",
        "jobs/t/outputs/../../u/outputs/x",
        "a\\b",
        "C:/x",
        "a\x00b",
        "nul",
        "x" * 256,
        "x/" * 510 + "x",
        "file:///etc/passwd",
        "\ud800",
    ],
)
def test_a_ref_that_leads_elsewhere_is_refused(ref: str) -> None:
    with pytest.raises(ValueError, match=r"ref|path"):
        output_ref(ref, "t")


@given(ref=REFS, request_id=IDS)
def test_a_stored_ref_never_leaves_the_calls_directory(ref: str, request_id: str) -> None:
    root = output_root(request_id)
    try:
        stored = output_ref(ref, request_id)
    except ValueError:
        return
    assert stored.startswith(root)
    assert len(stored) > len(root)
    assert ".." not in PurePosixPath(stored).parts
    assert not PureWindowsPath(stored).drive
    assert len(PurePosixPath(stored).parts) == stored.count("/") + 1


@given(ref=REFS, request_id=IDS)
def test_storing_a_stored_ref_changes_nothing(ref: str, request_id: str) -> None:
    try:
        stored = output_ref(ref, request_id)
    except ValueError:
        return
    assert output_ref(stored, request_id) == stored


@given(first=IDS, second=IDS)
def test_different_calls_never_share_a_directory(first: str, second: str) -> None:
    assert (output_root(first) == output_root(second)) == (first == second)
    assert output_root(first).count("/") == 3


def test_a_returned_file_is_named_by_its_number() -> None:
    assert auto_output_ref(2, "/tmp/x/cat.png", "t") == "jobs/t/outputs/auto/000002-cat.png"


@pytest.mark.parametrize("name", ["x" * 255, "a\\b.png", "a\nb", "nul", "C:x"])
def test_a_returned_file_is_stored_whatever_its_own_name(name: str) -> None:
    stored = auto_output_ref(2, f"/tmp/x/{name}", "t")
    assert stored.startswith("jobs/t/outputs/auto/")
    assert stored != auto_output_ref(3, f"/tmp/x/{name}", "t")
    assert output_ref(stored, "t") == stored


def test_an_item_has_one_directory_name() -> None:
    assert item_key("../x", 4) == "..%2Fx"
    assert item_key(None, 4) == "item-000004"
