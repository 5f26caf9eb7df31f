"""A folder of images as batches: what is in them, in which order, and where a run goes on."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gen_worker.trainer.batches import batches_of
from gen_worker.trainer.data import Cursor, FolderBatches, FolderConfig
from gen_worker.trainer.errors import InputMaterializationError, StartupContractError
from gen_worker.trainer.job_file import parse_job

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images; what is in them does not matter here."""
    for name in ("b.png", "a.JPG", "cats/1.webp", "cats/2.png", "cats/old/3.png", "dogs/4.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    for number in range(3):
        (tmp_path / "dogs" / f"more-{number}.jpeg").write_bytes(b"")
    (tmp_path / "b.txt").write_text("a bee\n", encoding="utf-8")
    (tmp_path / "cats" / "1.txt").write_text("never read", encoding="utf-8")
    lines = [
        {"file_name": "cats/1.webp", "text": "a cat", "rating": 3},
        {"file_name": "cats/old/3.png", "text": "an old cat"},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "metadata.jsonl").write_text(text + "\n\n", encoding="utf-8")
    return tmp_path


def indices(batches: Any) -> list[list[int]]:
    return [batch["index"] for batch in batches]


def fed(folder: Path, **config: Any) -> list[list[int]]:
    return indices(FolderBatches(folder, FolderConfig(**config)).iter_batches())


def test_images_come_by_name_with_their_captions(folder: Path) -> None:
    (batch,) = FolderBatches(folder).iter_batches()

    names = ["a.JPG", "b.png", "cats/1.webp", "cats/2.png", "cats/old/3.png", "dogs/4.png"]
    names += [f"dogs/more-{number}.jpeg" for number in range(3)]
    assert batch["image"] == [str(folder / name) for name in names]
    assert batch["text"] == ["", "a bee", "a cat", "", "an old cat", "", "", "", ""]
    assert batch["rating"] == [None, None, 3, *[None] * 6]
    assert batch["index"] == list(range(9))


def test_subfolders_come_as_often_as_is_said(folder: Path) -> None:
    repeats = {"cats": 3, "cats/old": 1, "dogs": 0}
    (batch,) = FolderBatches(folder, FolderConfig(repeats=repeats)).iter_batches()

    names = [path.removeprefix(f"{folder}/") for path in batch["image"]]
    assert names == ["a.JPG", "b.png", *["cats/1.webp"] * 3, *["cats/2.png"] * 3, "cats/old/3.png"]
    assert batch["index"] == list(range(9))


def test_another_order_each_epoch_and_the_same_everywhere(folder: Path) -> None:
    batches = fed(folder, batch_size=4, shuffle=True, shuffle_seed=3, epochs=2)

    assert [len(one) for one in batches] == [4, 4, 1] * 2
    first, second = (list(itertools.chain(*batches[at : at + 3])) for at in (0, 3))
    assert sorted(first) == sorted(second) == list(range(9))
    assert first == [8, 0, 1, 7, 4, 6, 5, 2, 3]
    assert first != second
    assert fed(folder, batch_size=4, drop_last=True) == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_run_goes_on_exactly_where_it_was(folder: Path, shuffle: bool) -> None:
    config = FolderConfig(batch_size=2, epochs=3, shuffle=shuffle)
    whole = indices(FolderBatches(folder, config).iter_batches())

    for stop in range(len(whole) + 1):
        first = FolderBatches(folder, config)
        taken = indices(itertools.islice(first.iter_batches(), stop))
        second = FolderBatches(folder, config)
        second.seek(first.cursor())
        assert taken + indices(second.iter_batches()) == whole


def test_ranks_share_the_batches_of_one(folder: Path) -> None:
    config = FolderConfig(batch_size=2, shuffle=True, epochs=2)
    alone = indices(FolderBatches(folder, config).iter_batches())
    ranks = [replace(config, shard_index=rank, shard_count=2) for rank in range(2)]
    each = [indices(FolderBatches(folder, one).iter_batches()) for one in ranks]

    dealt = [batch for step in zip(*each, strict=True) for batch in step]
    assert dealt == alone[:4] + alone[5:9]


def test_it_never_ends_unless_there_is_nothing_to_give(folder: Path) -> None:
    endless = FolderBatches(folder, FolderConfig(epochs=0)).iter_batches()
    assert len(list(itertools.islice(endless, 20))) == 20
    assert fed(folder, epochs=0, batch_size=10, drop_last=True) == []
    assert fed(folder, epochs=0, batch_size=9, shard_count=2) == []


def test_a_cursor_of_other_images_is_refused(folder: Path) -> None:
    cursor = FolderBatches(folder).cursor()
    with pytest.raises(ValueError, match="made with other data"):
        FolderBatches(folder, FolderConfig(batch_size=2)).seek(cursor)
    (folder / "new.png").write_bytes(b"")
    with pytest.raises(ValueError, match="made with other data"):
        FolderBatches(folder).seek(cursor)
    FolderBatches(folder).seek(Cursor(epoch=1))


def test_a_folder_that_cannot_be_trained_on(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, why in ((empty, "has no images"), (tmp_path / "none", "is no folder")):
        with pytest.raises(InputMaterializationError, match=why):
            fed(path)
    (folder / "b.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputMaterializationError, match=r"b\.txt' cannot be read as text"):
        fed(folder)


@pytest.mark.parametrize(
    "line", ["[]", "{", '{"text": "no name"}', '{"file_name": 3}', '{"file_name": "a", "index": 1}']
)
def test_metadata_that_cannot_be_read_is_named(folder: Path, line: str) -> None:
    (folder / "cats" / "metadata.jsonl").write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(InputMaterializationError, match=r"line 2 of '.*cats/metadata\.jsonl'"):
        fed(folder)


def test_a_job_may_name_a_folder(folder: Path) -> None:
    dataset = {"folder": str(folder), "batch_size": 4, "epochs": 2, "repeats": {"dogs": 2}}
    job = parse_job({"request_id": "r", "dataset": dataset})
    batches = indices(batches_of(job, []).iter_batches())

    assert [len(one) for one in batches] == [4, 4, 4, 1] * 2
    with pytest.raises(StartupContractError, match="repeats of 'dogs' must not be negative"):
        parse_job({"request_id": "r", "dataset": {"repeats": {"dogs": -1}}})
