"""Datasets are written, read and refused; they need pyarrow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gen_worker.conversion.dataset import Dataset, DatasetError, DatasetWriter
from gen_worker.errors import ValidationError

pyarrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

SCHEMA = {"prompt": "string", "seed": "int64", "tags": "list<string>", "image": "image"}


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": f"a cat {number}", "seed": number, "tags": ["x", str(number)], "image": b"PNG"}
        for number in range(start, start + count)
    ]


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    with DatasetWriter(
        tmp_path / "d", SCHEMA, kind="prompt_corpus", info={"license": "mit"}
    ) as out:
        out.write_all(rows(2500))
        out.write_all(rows(3, 9000), split="test")
        out.write({"prompt": "alone"}, split="test")

    train = Dataset("a/b", "train", tmp_path / "d")
    expected = [{**row, "image": {"bytes": b"PNG", "path": None}} for row in rows(2500)]
    assert list(train.iter_rows()) == expected
    assert list(train.iter_examples()) == expected
    assert train.verify() == 2500
    assert next(train.iter_rows(["seed"])) == {"seed": 0}
    test = Dataset("a/b", "test", tmp_path / "d")
    assert [row["seed"] for row in test.iter_rows()] == [9000, 9001, 9002, None]
    assert next(test.iter_prompts()) == {"prompt": "a cat 9000", "seed": 9000}
    info = train.dataset_info()
    assert info == train.manifest()
    assert info["features"] == SCHEMA
    assert info["num_rows"] == 2504
    assert info["splits"] == {"train": {"num_rows": 2500}, "test": {"num_rows": 4}}
    assert info["license"] == "mit"
    assert (train.kind, train.is_prompt_corpus(), train.is_eval_set()) == (
        "prompt_corpus",
        True,
        False,
    )


def test_shards_are_cut_by_bytes_and_reported_when_they_are_whole(tmp_path: Path) -> None:
    seen: list[str] = []

    def on_file(path: str) -> None:
        if path.endswith(".parquet"):
            assert parquet.ParquetFile(path).metadata.num_rows
        seen.append(Path(path).name)

    with DatasetWriter(
        tmp_path / "d", {"text": "string"}, max_shard_bytes=1000, on_file=on_file
    ) as out:
        out.write_all({"text": "x" * 100} for _ in range(25))
    dataset = Dataset("", "train", tmp_path / "d")
    assert (
        [path.name for path in dataset.parquet_shards()]
        == seen[:-1]
        == [
            "train-00000.parquet",
            "train-00001.parquet",
            "train-00002.parquet",
        ]
    )
    assert seen[-1] == "dataset_info.json"
    assert sum(1 for _ in dataset.iter_rows()) == 25


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        with DatasetWriter(tmp_path / name, SCHEMA) as out:
            out.write_all(rows(50))
        made.append(files_below(tmp_path / name))
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"promt": "x"}, r"row 0 has columns \['promt'\] that the schema lacks"),
        ({"seed": "seven"}, "column 'seed' of split 'train' takes int64"),
        ({"seed": 2**70}, "column 'seed'"),
        ({"tags": 3}, "column 'tags'"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_left(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with (
        pytest.raises(DatasetError, match=message) as caught,
        DatasetWriter(tmp_path / "d", SCHEMA) as out,
    ):
        out.write(row)
    assert caught.value.column
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("schema", "message"),
    [({}, "needs columns"), ({"a": "text", "b": "list<list<x>>"}, "unknown types")],
)
def test_a_wrong_schema_is_refused(tmp_path: Path, schema: dict[str, str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        DatasetWriter(tmp_path / "d", schema)


def test_a_writer_neither_mixes_nor_goes_on(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "d", {"a": "int64"})
    with pytest.raises(DatasetError, match="no name of a split"):
        writer.write({"a": 1}, split="../x")
    with pytest.raises(DatasetError, match="without rows"):
        writer.close()
    assert not (tmp_path / "d").exists()
    writer = DatasetWriter(tmp_path / "d", {"a": "int64"})
    writer.write({"a": 1})
    assert writer.close() == writer.close() == tmp_path / "d"
    with pytest.raises(RuntimeError, match="closed"):
        writer.write({"a": 1})
    with pytest.raises(DatasetError, match="is not empty"):
        DatasetWriter(tmp_path / "d", {"a": "int64"})


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", {"a": "int64"}) as out:
        out.write({"a": 1})
    with pytest.raises(DatasetError, match="has no split 'test': it has 'train'"):
        list(Dataset("a/b", "test", tmp_path / "d").iter_rows())
    with pytest.raises(DatasetError, match="has no rows"):
        list(Dataset("a/b", "test", tmp_path).iter_rows())


def test_a_damaged_or_lying_file_is_named(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", {"a": "int64"}) as out:
        out.write_all({"a": number} for number in range(10))
    dataset = Dataset("", "train", tmp_path / "d")
    (shard,) = dataset.parquet_shards()
    whole = shard.read_bytes()
    for damaged in (whole[:-20], b"", b"PAR1" + bytes(100) + b"PAR1"):
        shard.write_bytes(damaged)
        with pytest.raises(DatasetError, match="no whole Parquet file") as caught:
            list(dataset.iter_rows())
        assert caught.value.file == str(shard)
    shard.write_bytes(whole)
    info = tmp_path / "d" / "dataset_info.json"
    told = json.loads(info.read_bytes())
    info.write_text(json.dumps({**told, "splits": {"train": {"num_rows": 11}}}))
    with pytest.raises(DatasetError, match=r"has 10 rows, its dataset_info\.json says 11"):
        Dataset("", "train", tmp_path / "d").verify()
    info.write_text(json.dumps({**told, "features": {"b": "int64"}}))
    with pytest.raises(DatasetError, match=r"lacks the columns \['b'\]"):
        Dataset("", "train", tmp_path / "d").verify()
    info.write_text("[")
    with pytest.raises(DatasetError, match="is no JSON object"):
        Dataset("", "train", tmp_path / "d").dataset_info()


def test_older_datasets_are_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"kind": "calibration_dataset"}')
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "x": 1}\n{"prompt": "b"}\n')
    dataset = Dataset("", "train", tmp_path)
    assert dataset.is_calibration_dataset()
    assert list(dataset.iter_prompts()) == [{"prompt": "a"}, {"prompt": "b"}]
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\nx\n')
    with pytest.raises(DatasetError, match=r"row 1 of .* has no prompt"):
        list(dataset.iter_prompts())
    with pytest.raises(DatasetError, match="line 3 of"):
        list(dataset.iter_rows())


def saved(root: Path, *batches: list[dict[str, Any]]) -> None:
    """Write what `datasets` saves of one split."""
    root.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{len(batches):05d}.arrow" for number in range(len(batches))]
    for name, batch in zip(names, batches, strict=True):
        table = pyarrow.Table.from_pylist(batch)
        with pyarrow.OSFile(str(root / name), "wb") as file:
            with pyarrow.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (root / "state.json").write_text(json.dumps(state))


def test_saved_datasets_are_read_without_the_library_that_saved_them(tmp_path: Path) -> None:
    two = [{"prompt": "a", "x": 1}, {"prompt": "b", "x": 2}]
    saved(tmp_path / "both" / "train", two, [{"prompt": "c", "x": 3}])
    saved(tmp_path / "both" / "eval", [{"prompt": "held out", "x": 4}])
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "eval"]}')
    train = Dataset("", "train", tmp_path / "both")
    assert list(train.iter_examples()) == [*two, {"prompt": "c", "x": 3}]
    assert (train.verify(), next(train.iter_rows(["x"]))) == (3, {"x": 1})
    held_out = Dataset("", "eval", tmp_path / "both")
    assert list(held_out.iter_prompts()) == [{"prompt": "held out"}]
    with pytest.raises(DatasetError, match="no split 'test': it has 'train', 'eval'"):
        list(Dataset("", "test", tmp_path / "both").iter_rows())
    # There is no choice where there is one: it is called as it may be.
    assert list(Dataset("", "x", tmp_path / "both" / "train").iter_rows(["x"]))[2] == {"x": 3}


def test_damaged_and_lying_saves_are_named(tmp_path: Path) -> None:
    saved(tmp_path / "d", [{"prompt": "a"}])
    dataset = Dataset("", "train", tmp_path / "d")
    with pytest.raises(DatasetError, match="no column 'y'") as caught:
        list(dataset.iter_rows(["y"]))
    assert caught.value.column == "y"
    [file] = (tmp_path / "d").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DatasetError, match="no whole Arrow stream") as caught:
        list(dataset.iter_rows())
    assert caught.value.file == str(file)
    file.unlink()
    with pytest.raises(DatasetError, match="no whole Arrow stream"):
        list(dataset.iter_rows())
    state = tmp_path / "d" / "state.json"
    for text, message in (("{}", "lists no files"), ("[", "no JSON object")):
        state.write_text(text)
        with pytest.raises(DatasetError, match=message):
            list(dataset.iter_rows())
    state.write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(ValidationError, match="leaves its directory"):
        list(dataset.iter_rows())


def test_the_datasets_library_and_we_read_each_other(tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    from gen_worker.models.tiny.tokens import text_tokenizer

    with DatasetWriter(tmp_path / "ours", {"text": "string"}) as out:
        out.write_all([{"text": "a horse on mars"}, {"text": "a"}])
    ours = Dataset("", "train", tmp_path / "ours")
    whole = ours.as_hf_dataset()
    splits = {"train": whole, "eval": whole.select([1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "theirs")
    held_out = Dataset("", "eval", tmp_path / "theirs")
    assert list(held_out.iter_examples()) == list(held_out.as_hf_dataset()) == [{"text": "a"}]
    tokens = ours.as_hf_dataset(tokenizer=text_tokenizer(), max_seq_length=3)["input_ids"]
    assert [len(ids) for ids in tokens] == [3, 1]


def test_texts_are_those_of_the_column_for_text(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", {"id": "string", "prompt": "string"}) as out:
        out.write_all([{"id": "1", "prompt": None}, {"id": "2", "prompt": "a cat"}])
    dataset = Dataset("", "train", tmp_path / "d")
    assert sorted(dataset.sample_texts(9, 0)) == ["", "a cat"]
    with DatasetWriter(tmp_path / "n", {"id": "int64"}) as out:
        out.write({"id": 1})
    with pytest.raises(DatasetError, match="has no text: its columns are id"):
        Dataset("", "train", tmp_path / "n").sample_texts(1, 0)


class Tokenizer:
    """Letters are tokens."""

    pad_token = None
    eos_token = "."

    def __call__(self, texts: list[str], *, max_length: int, **options: Any) -> dict[str, Any]:
        torch = pytest.importorskip("torch")
        padded = [text[:max_length].ljust(max_length, self.pad_token or "?") for text in texts]
        return {"input_ids": torch.tensor([[ord(letter) for letter in text] for text in padded])}


def test_a_dataloader_has_the_first_rows_of_a_seeded_shuffle(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", {"id": "int64", "text": "string"}) as out:
        out.write_all({"id": number, "text": f"{number:03d}"} for number in range(20))
    dataset = Dataset("", "train", tmp_path / "d")

    def texts(seed: int) -> list[str]:
        loader = dataset.as_dataloader(
            tokenizer=Tokenizer(), n=6, seq_length=5, batch_size=4, seed=seed
        )
        batches = [batch["input_ids"] for batch in loader]
        assert [tuple(batch.shape) for batch in batches] == [(4, 5), (2, 5)]
        return ["".join(map(chr, row)) for batch in batches for row in batch.tolist()]

    assert texts(1) == texts(1) != texts(2)
    assert len(set(texts(1))) == 6
    assert all(text.endswith("..") for text in texts(1))
