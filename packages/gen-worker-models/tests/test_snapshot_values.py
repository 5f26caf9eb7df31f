"""Snapshots as the wire and the hub carry them: every spelling is read, nothing hostile passes."""

from typing import Any

import pytest
from blake3 import blake3

from gen_worker.errors import ValidationError
from gen_worker.models.snapshot import (
    Snapshot,
    SnapshotFile,
    parse_blake3,
    snapshot_from_record,
    snapshot_of,
)

HEX, OTHER = "ab" * 32, "cd" * 32


def file(path: str, digest: str = HEX, size_bytes: int = 1) -> SnapshotFile:
    return SnapshotFile(path=path, size_bytes=size_bytes, blake3=digest)


@pytest.mark.parametrize(
    "record",
    [
        {"snapshot_digest": f"blake3:{HEX}", "files": [{"path": "a", "blake3": OTHER, "url": "u"}]},
        {"snapshotDigest": HEX, "entries": [{"path": "a", "BLAKE3": OTHER, "url": "u"}]},
        {
            "checkpoint_id": f"blake3:{HEX}",
            "snapshot_manifest": {
                "files": [{"path": "a", "digest": f"blake3:{OTHER}", "url": "u"}]
            },
        },
        {
            "checkpoint_id": HEX.upper(),
            "snapshot_manifest": {"entries": [{"path": "a", "digest": OTHER, "url": "u"}, {}]},
        },
    ],
)
def test_every_spelling_is_read(record: dict[str, Any]) -> None:
    snapshot = snapshot_from_record(record)
    assert snapshot.checkpoint_id == f"blake3:{HEX}"
    assert snapshot.files == (SnapshotFile(path="a", size_bytes=0, blake3=OTHER, url="u"),)


@pytest.mark.parametrize("name", ["transfer_grant", "s3_transfer_grant"])
def test_a_grant_stands_beside_the_url(name: str) -> None:
    entry = {"path": "a", "blake3": OTHER, name: {"bucket": "b"}}
    (found,) = snapshot_from_record({"snapshot_digest": HEX, "files": [entry]}).files
    assert found.transfer_grant == {"bucket": "b"}


@pytest.mark.parametrize(
    "record",
    [
        [],
        {"files": [{"path": "a", "blake3": HEX}]},
        {"snapshot_digest": HEX},
        {"snapshot_digest": HEX, "files": []},
        {"snapshot_digest": HEX, "files": {}},
        {"snapshot_digest": HEX, "files": [{"blake3": HEX}]},
        {"snapshot_digest": HEX, "files": [{"path": "a"}]},
        {"snapshot_digest": HEX, "files": [{"path": "a", "blake3": 7}]},
        {"snapshot_digest": HEX, "files": [{"path": 7, "blake3": HEX}]},
        {"snapshot_digest": HEX, "files": [{"path": "a", "blake3": HEX, "size_bytes": "1"}]},
        {"snapshot_digest": HEX, "files": [{"path": "a", "blake3": HEX, "size_bytes": -1}]},
        {"snapshot_digest": "../x", "files": [{"path": "a", "blake3": HEX}]},
        {"snapshot_digest": HEX, "files": [{"path": "a", "blake3": "../../x"}]},
        {"snapshot_digest": HEX, "snapshot_manifest": []},
    ],
)
def test_malformed_records_are_refused(record: Any) -> None:
    with pytest.raises(ValidationError):
        snapshot_from_record(record)


@pytest.mark.parametrize(
    "path", ["/a", "../a", "a/../../b", "C:/a", "a\\b", "//host/share", "nul", "a/con.txt", "a\0b"]
)
def test_a_path_never_leaves_its_snapshot(path: str) -> None:
    with pytest.raises(ValidationError, match="path"):
        file(path)


@pytest.mark.parametrize(
    "paths", [("a", "a"), ("a", "A"), ("a", "a/b"), ("A/b", "a"), ("x/y", "X/Y")]
)
def test_files_that_some_machine_cannot_hold_together(paths: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="cannot hold both"):
        Snapshot(digest=HEX, files=tuple(map(file, paths)))


def test_the_digest_is_the_hash_of_the_sorted_entries() -> None:
    made = snapshot_of([file("b", OTHER, 2), file("a/c", HEX, 1)])
    assert [one.path for one in made.files] == ["a/c", "b"]
    text = (
        f'[{{"digest":"blake3:{HEX}","path":"a/c","size_bytes":1}},'
        f'{{"digest":"blake3:{OTHER}","path":"b","size_bytes":2}}]'
    )
    assert made.digest == blake3(text.encode()).hexdigest()


def test_equal_contents_count_once() -> None:
    assert snapshot_of([file("a", HEX, 5), file("b", HEX, 5), file("c", OTHER, 2)]).size_bytes == 7


@pytest.mark.parametrize(
    "text", ["", "ab", "blake3:", "sha256:" + HEX, HEX + "0", "zz" * 32, "../" + HEX]
)
def test_only_64_hex_digits_are_a_digest(text: str) -> None:
    with pytest.raises(ValidationError, match="BLAKE3"):
        parse_blake3(text)


def test_neither_a_signed_url_nor_a_grant_is_shown() -> None:
    shown = repr(
        SnapshotFile(
            path="a",
            size_bytes=1,
            blake3=HEX,
            url="https://hub/blob?sig=secret",
            transfer_grant={"secret_access_key": "secret"},
        )
    )
    assert "secret" not in shown
    assert "'a'" in shown
