"""Publishing revisions and datasets, and the space producers work in."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pytest

from gen_worker.context import (
    ConversionContext,
    DatasetContext,
    RequestContext,
    TrainingContext,
)
from gen_worker.context.local import LocalOutputs, run_blocking
from gen_worker.context.publishing import checked_tags
from gen_worker.errors import ArtifactTransferError, CanceledError
from gen_worker.ports import Ports
from gen_worker.types import Tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

HEX = "ab" * 32


class Hub:
    """A publisher that remembers what it was asked."""

    def __init__(self, *, answer: dict[str, Any] | None = None, fails: bool = False) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.answer = {"ok": True} if answer is None else answer
        self.fails = fails
        self.metadata: dict[str, Mapping[str, Any]] = {}

    async def open(self, destination: str, *, request_id: str, **spec: Any) -> object:
        self.calls.append(("open", (destination, request_id, spec)))
        return f"session of {destination}"

    async def put(self, session: object, path: str, source: Path) -> Mapping[str, Any]:
        self.calls.append(("put", (session, path, source.name)))
        return {"ref": path, "blake3": HEX, "size_bytes": source.stat().st_size}

    async def finalize(self, session: object, **manifest: Any) -> Mapping[str, Any]:
        self.calls.append(("finalize", (session, manifest)))
        if self.fails:
            raise ArtifactTransferError("the hub is down", phase="finalize")
        return self.answer

    async def abort(self, session: object) -> None:
        self.calls.append(("abort", session))

    async def read_metadata(self, repo: str, *, request_id: str) -> Mapping[str, Any] | None:
        return self.metadata.get(repo)

    async def write_metadata(
        self, repo: str, metadata: Mapping[str, Any], *, request_id: str
    ) -> Mapping[str, Any]:
        self.metadata[repo] = metadata
        return {"revision": 2}

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class Disk(LocalOutputs):
    """Files whose blobs and directories are below one directory."""

    async def materialize(self, value: Any, limits: Any, *, request_id: str) -> Any:
        path = Path(self.root, str(value.blob_digest))
        if not path.exists():
            raise FileNotFoundError(path)
        return Tensors(ref=value.ref, local_path=str(path))

    async def release(self, request_id: str) -> None: ...


class DiskWithDirectories(Disk):
    async def find_directory(self, ref: str, *, request_id: str, **chosen: Any) -> str | None:
        path = Path(self.root, ref)
        return str(path) if path.is_dir() else None


class Silent:
    def emit(self, event: object) -> None: ...


def host(publisher: Hub | None = None, files: Any = None) -> Ports:
    return Ports(
        files=cast("Any", files),
        events=Silent(),
        models=cast("Any", None),
        publisher=publisher,
        run=run_blocking,
    )


# Revisions


@pytest.mark.parametrize("ports", [None, host()])
def test_without_a_hub_publishing_says_so(ports: Ports | None) -> None:
    answer = RequestContext("t", ports=ports).publish_repo_revision(destination_repo="a/b")

    assert answer == {
        "ok": False,
        "skipped": True,
        "reason": "missing_worker_capability_channel",
        "destination_repo": "a/b",
    }


def test_a_revision_is_opened_described_and_committed() -> None:
    hub = Hub(answer={"ok": True, "checkpoint_ids": ["1"]})
    ctx = RequestContext("t", ports=host(hub))
    ctx.set_repo_spec(kind="lora", library_name="")

    answer = ctx.finalize_checkpoints(
        destination_repo=" a/b ", destination_repo_tags=["prod", "v2", "prod"], artifact_refs=["x"]
    )

    assert answer == {"ok": True, "checkpoint_ids": ["1"]}
    assert hub.calls[0] == ("open", ("a/b", "t", {"kind": "lora"}))
    name, (session, manifest) = hub.calls[1]
    assert (name, session, len(hub.calls)) == ("finalize", "session of a/b", 2)
    assert manifest == {
        "artifact_refs": ["x"],
        "metadata": None,
        "create_if_missing": True,
        "destination_repo_tags": ["prod", "v2"],
        "source_repo": None,
        "source_version_id": None,
        "target_version_id": None,
        "snapshot_manifest": None,
        "relationship_kind": "import",
        "auto_create_external_parent": True,
    }
    assert not ctx.has_open_revisions


def test_an_async_handler_publishes() -> None:
    async def main() -> dict[str, Any]:
        return await RequestContext("t", ports=host(Hub())).apublish_repo_revision(
            destination_repo="a/b"
        )

    assert asyncio.run(main()) == {"ok": True}


def test_a_revision_that_cannot_be_committed_is_dropped_and_reported() -> None:
    hub = Hub(fails=True)
    ctx = RequestContext("t", ports=host(hub))

    with pytest.raises(ArtifactTransferError, match="the hub is down"):
        ctx.publish_repo_revision(destination_repo="a/b")
    assert hub.names() == ["open", "finalize", "abort"]


def test_a_refusal_is_a_failure() -> None:
    hub = Hub(answer={"ok": False, "reason": "no quota"})

    with pytest.raises(ArtifactTransferError, match="'a/b' was refused: no quota"):
        RequestContext("t", ports=host(hub)).publish_repo_revision(destination_repo="a/b")


def test_a_canceled_call_publishes_nothing() -> None:
    hub = Hub()
    ctx = RequestContext("t", ports=host(hub))
    ctx.cancel()

    with pytest.raises(CanceledError):
        ctx.publish_repo_revision(destination_repo="a/b")
    assert hub.calls == []


def test_an_unfinished_revision_is_dropped_when_the_call_ends() -> None:
    hub = Hub()
    ctx = RequestContext("t", ports=host(hub))
    assert not ctx.needs_release
    revisions = ctx._revisions
    assert revisions is not None
    assert ctx.needs_release
    run_blocking(revisions.session("a/b", {}))
    assert ctx.has_open_revisions

    with pytest.raises(RuntimeError, match="before the first file"):
        ctx.set_repo_spec(kind="lora")
    run_blocking(ctx.release())
    run_blocking(ctx.release())

    assert hub.calls[1:] == [("abort", "session of a/b")]
    assert not ctx.has_open_revisions


@pytest.mark.parametrize(
    ("destination", "fields", "tags"),
    [
        ("a/b", {}, ["prod"]),
        ("a/b", {"destination_repo_tags": []}, []),
        ("a/b", {"destination_repo_tags": ["v1"]}, ["v1"]),
        ("c/d", {}, []),
    ],
)
def test_the_jobs_tags_are_those_of_its_destination(
    destination: str, fields: Any, tags: list[str]
) -> None:
    hub = Hub()
    job = {"ref": "a/b", "tags": ["prod"]}
    ctx = RequestContext("t", ports=host(hub), destination=job)
    ctx.publish_repo_revision(destination_repo=destination, **fields)
    assert hub.calls[1][1][1]["destination_repo_tags"] == tags


def test_checkpoints_say_what_their_revision_is_opened_with(tmp_path: Path) -> None:
    kept: list[Any] = []

    class Files(LocalOutputs):
        async def save(self, ref: str, source: Any, options: Any, **request: Any) -> Any:
            kept.append(options)
            return await super().save(ref, source, options, **request)

    files, hints = Files(str(tmp_path)), {"destination_repo": "a/b"}
    ctx = RequestContext("t", ports=host(files=files), job_id="j", hints=hints)
    ctx.save_bytes("notes.txt", b"")
    ctx.set_repo_spec(model_family="flux")
    ctx.save_checkpoint_bytes("model.safetensors", b"weights")

    assert [(one.destination, one.repo_spec) for one in kept] == [
        ("", None),
        ("a/b", {"model_family": "flux"}),
    ]
    with pytest.raises(RuntimeError, match="before the first file"):
        ctx.set_repo_spec(model_family="sdxl")


@pytest.mark.parametrize("destination", ["", "  ", None, 3])
def test_a_destination_must_be_named(destination: Any) -> None:
    with pytest.raises(ValueError, match="destination_repo must be 'owner/name'"):
        RequestContext("t").publish_repo_revision(destination_repo=destination)


@pytest.mark.parametrize("method", ["publish_repo_revision", "set_repo_spec"])
def test_unknown_keywords_are_named(method: str) -> None:
    arguments = {"destination_repo": "a/b"} if method != "set_repo_spec" else {}

    with pytest.raises(TypeError, match=r"has no keywords \['tagz'\]"):
        getattr(RequestContext("t"), method)(**arguments, tagz=[])


@pytest.mark.parametrize(
    ("tags", "checked"),
    [
        (None, []),
        ([], []),
        (["b", "a", "b"], ["a", "b"]),
        (["0.1_x-y"], ["0.1_x-y"]),
        (["a" * 63], ["a" * 63]),
    ],
)
def test_tags_are_sorted_and_each_once(tags: Any, checked: list[str]) -> None:
    assert checked_tags(tags) == checked


@pytest.mark.parametrize(
    "tags",
    [["latest"], ["Prod"], [""], ["-x"], ["a/b"], ["a" * 64], [3], [[]], "prod", ["ok", "no way"]],
)
def test_a_tag_outside_the_rule_is_refused(tags: Any) -> None:
    with pytest.raises(ValueError, match="tag"):
        checked_tags(tags)


def test_all_wrong_tags_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"\['A', 'B'\]"):
        checked_tags(["B", "ok", "A"])


# Scratch space


def test_temporary_directories_last_as_long_as_the_call() -> None:
    ctx = ConversionContext("a/b c")
    first, second = ctx.mktemp(), ctx.mktemp()
    (first / "x").write_bytes(b"x")

    assert first != second
    assert list(second.iterdir()) == []
    assert ctx.needs_release
    run_blocking(ctx.release())
    assert not ctx.needs_release
    assert not first.exists()
    assert not second.exists()
    assert not first.parent.exists()


def test_a_checkpoint_directory_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    first = TrainingContext("r1", job_id="j/1").checkpoint_dir(key="optimizer")
    (first / "state").write_bytes(b"x")
    again = TrainingContext("r2", job_id="j/1").checkpoint_dir(key="optimizer")

    assert again == first
    assert (again / "state").exists()
    assert first.parent.parent == tmp_path / "txform-persistent"
    others = {
        TrainingContext("r", job_id="j_1").checkpoint_dir(key="optimizer"),
        TrainingContext("r", job_id="j/1").checkpoint_dir(key="../optimizer"),
        TrainingContext("r", job_id="j/1").checkpoint_dir(key=".."),
    }
    assert len(others | {first}) == 4
    assert all(path.parent.parent == tmp_path / "txform-persistent" for path in others)
    with pytest.raises(ValueError, match="needs a key"):
        TrainingContext("r").checkpoint_dir(key="")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files")
def test_a_checkpoint_directory_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is known to everybody, and so is the temporary directory."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "txform-persistent").symlink_to(tmp_path / "theirs")
    mine = tmp_path / f"txform-persistent-{os.getuid()}"
    assert TrainingContext("r").checkpoint_dir(key="k") == mine / "r" / "k"
    assert mine.stat().st_mode & 0o077 == 0
    assert list((tmp_path / "theirs").iterdir()) == []
    (tmp_path / "txform-persistent").unlink()
    TrainingContext("r").checkpoint_dir(key="k")
    assert (tmp_path / "txform-persistent").stat().st_mode & 0o077 == 0
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        TrainingContext("r").checkpoint_dir(key="k")


def test_a_blob_is_put_where_it_is_wanted(tmp_path: Path) -> None:
    (tmp_path / f"blake3:{HEX}").write_bytes(b"weights")
    ctx = ConversionContext("t", ports=host(files=Disk(str(tmp_path))))

    for digest in (HEX, f"blake3:{HEX}", f" BLAKE3:{HEX.upper()} "):
        path = ctx.materialize_blob(digest, tmp_path / "deep" / "model.bin")
        assert path.read_bytes() == b"weights"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.bin"]


@pytest.mark.parametrize("digest", ["", "blake3:12", "md5:" + HEX, "../" + HEX])
def test_a_blob_needs_a_whole_digest(digest: str) -> None:
    with pytest.raises(ValueError, match="is no digest"):
        ConversionContext("t").materialize_blob(digest, "x")


def test_a_blob_that_is_not_here_is_not_found(tmp_path: Path) -> None:
    hosted = ConversionContext("t", ports=host(files=Disk(str(tmp_path))))

    for ctx in (hosted, ConversionContext("t")):
        with pytest.raises(FileNotFoundError):
            ctx.materialize_blob(HEX, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


# Repository metadata


def test_metadata_is_read_and_written() -> None:
    hub = Hub()
    ctx = ConversionContext("t", ports=host(hub))

    assert ctx.read_repo_metadata(destination_repo="a/b") == {
        "ok": True,
        "exists": False,
        "metadata": {},
    }
    written = ctx.write_repo_metadata(destination_repo="a/b", metadata={"x": 1})
    assert written == {
        "ok": True,
        "owner": "a",
        "name": "b",
        "metadata": {"x": 1},
        "revision": 2,
    }
    assert ctx.read_repo_metadata(destination_repo="a/b")["metadata"] == {"x": 1}


def test_metadata_without_a_hub_is_skipped() -> None:
    ctx = TrainingContext("t")

    for answer in (
        ctx.read_repo_metadata(destination_repo="a/b"),
        ctx.write_repo_metadata(destination_repo="a/b", metadata={}),
    ):
        assert answer["skipped"]
        assert answer["reason"] == "missing_worker_capability_channel"


# Datasets


def test_a_dataset_is_published() -> None:
    hub = Hub(answer={"ok": True, "dataset_id": "7", "existed": False})
    ctx = DatasetContext("t", ports=host(hub))

    answer = ctx.publish_dataset_revision(
        destination_dataset="a/d", features_json={"prompt": "string"}, visibility="public"
    )

    assert answer["dataset_id"] == "7"
    assert hub.calls[0] == ("open", ("a/d", "t", {"target": "dataset"}))
    manifest = hub.calls[1][1][1]
    assert manifest["features_json"] == {"prompt": "string"}
    assert manifest["visibility"] == "public"
    assert manifest["row_artifacts_json"] is None


def test_a_dataset_without_a_hub_is_skipped() -> None:
    answer = DatasetContext("t").publish_dataset_revision(
        destination_dataset="a/d", features_json={}
    )

    assert answer["skipped"]
    assert answer["destination_dataset"] == "a/d"


def test_a_datasets_visibility_is_checked() -> None:
    with pytest.raises(ValueError, match="'private' or 'public', not 'all'"):
        DatasetContext("t").publish_dataset_revision(
            destination_dataset="a/d", features_json={}, visibility="all"
        )


def test_a_dataset_is_resolved_to_a_directory(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    files = DiskWithDirectories(str(tmp_path))

    ctx = DatasetContext("t", ports=host(files=files))
    assert ctx.resolve_dataset("rows") == str(tmp_path / "rows")
    for elsewhere in (ctx, DatasetContext("t"), DatasetContext("t", ports=host(files=Disk("x")))):
        with pytest.raises(ArtifactTransferError, match="'none' is not on this machine"):
            elsewhere.resolve_dataset("none")


# The conversion package's part


def test_the_writer_is_the_conversion_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ctx = ConversionContext("t", source_path=str(tmp_path))
    conversion = ModuleType("gen_worker.conversion")
    monkeypatch.setitem(sys.modules, "gen_worker.conversion", conversion)
    with pytest.raises(RuntimeError, match=r"needs gen_worker\.conversion\.StreamingWriter"):
        ctx.open_output_writer()
    with pytest.raises(RuntimeError, match="install a newer one"):
        ctx.copy_unconverted_components(None, tmp_path)

    cast("Any", conversion).StreamingWriter = lambda source, out: (source, out)
    source, out = ctx.open_output_writer()
    assert source == str(tmp_path)
    assert out.name == "model"  # so that refs, and a flavor that is not named, are no random text
    assert out.parent.is_dir()
    assert ctx.open_output_writer()[1] != out
    with pytest.raises(RuntimeError, match="needs a source"):
        ConversionContext("t").open_output_writer()
    run_blocking(ctx.release())


def test_without_the_conversion_package_the_writer_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gen_worker.conversion", None)

    with pytest.raises(RuntimeError, match="gen-worker-conversion: install it"):
        ConversionContext("t").open_output_writer()


def test_a_training_context_is_a_conversion_context() -> None:
    assert issubclass(TrainingContext, ConversionContext)
    assert issubclass(DatasetContext, RequestContext)
    assert inspect.signature(TrainingContext) == inspect.signature(RequestContext)
