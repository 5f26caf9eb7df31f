"""Whatever a list of parts or a table of mounts says: a checked result, or a clear error."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.errors import ValidationError
from gen_worker.models.snapshot import SnapshotFile, snapshot_of
from gen_worker.models.store.mounts import volume_of
from gen_worker.models.store.trees import expected_extra_bytes, lay_out

PARTS = {f"w.part{index:04d}": bytes([index]) * 10 for index in range(3)}
DIGESTS = [blake3(content).hexdigest() for content in PARTS.values()]

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
paths = st.sampled_from(["w", "W", "a", "a/b", "../x", "/x", "C:/x", "", "a\\b", "nul"]) | st.text()
parts = st.fixed_dictionaries(
    {},
    optional={
        "path": anything,
        "size_bytes": st.sampled_from([10, 9, True, 10.0, "10"]) | anything,
        "digest": st.sampled_from([*DIGESTS, f"blake3:{DIGESTS[0]}", "00" * 32]) | anything,
    },
)
lists = anything | st.fixed_dictionaries(
    {},
    optional={
        "original_path": paths | anything,
        "total_bytes": st.sampled_from([10, 20, 30]) | anything,
        "parts": st.lists(parts | anything, max_size=4) | anything,
    },
)


def built_from(content: bytes, other: str) -> Any:
    files = {**PARTS, other: b"{}", "w.parts.json": content}
    snapshot = snapshot_of(
        SnapshotFile(path=path, size_bytes=len(text), blake3=blake3(text).hexdigest())
        for path, text in files.items()
    )
    return snapshot, lay_out(snapshot, lambda _: content, {})


@given(lists, st.sampled_from(["a", "config.json", "x/w"]))
def test_a_list_of_parts_gives_a_checked_tree_or_is_refused(content: object, other: str) -> None:
    try:
        snapshot, tree = built_from(msgspec.json.encode(content), other)
    except ValidationError:
        return
    names = [entry.path for group in tree for entry in group]
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert os.path.normpath(os.path.join("/root", name)).startswith("/root/")
    (joined,) = tree.joined
    assert joined.size_bytes == sum(size for _, size in joined.parts) > 0
    assert joined.size_bytes <= expected_extra_bytes(snapshot)
    assert {digest for digest, _ in joined.parts} <= set(DIGESTS)
    assert "w.parts.json" not in names


@given(st.binary(max_size=200))
def test_bytes_that_are_no_list_are_refused(content: bytes) -> None:
    try:
        built_from(content, "a")
    except ValidationError:
        return
    raise AssertionError("nothing this short lists parts with their digests")


@given(
    st.lists(
        st.lists(st.text(max_size=6) | st.sampled_from(["-", "/", "/a", "nfs", "\\777", "\\"]))
    ),
    st.sampled_from(["/", "/a", "/a/b", "x"]),
)
def test_any_table_of_mounts_gives_a_volume(rows: list[list[str]], path: str) -> None:
    volume = volume_of(path, "\n".join(" ".join(row) for row in rows))
    assert volume.backend in ("nfs", "local")
    assert len(volume.key) == 64
