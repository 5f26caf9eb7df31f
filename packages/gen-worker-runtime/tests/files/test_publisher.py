"""Revisions and datasets of a job on its hub."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.context import ConversionContext, DatasetContext
from gen_worker.context.jobs import describe_job
from gen_worker.context.local import run_blocking
from gen_worker.errors import ArtifactTransferError, AuthError, ValidationError
from gen_worker.models.hub import HubClient
from gen_worker.ports import Ports
from gen_worker.runtime.files import HubPublisher, JobScope
from gen_worker.types import Tensors

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Hub, MakeFiles, Told, WebServer
    from gen_worker.runtime.files import WorkerFiles


@pytest.fixture
def files(make_files: MakeFiles, told: Told) -> WorkerFiles:
    return make_files(told=told)


def ports_of(files: WorkerFiles) -> Ports:
    models: Any = None
    publisher = HubPublisher(files)
    return Ports(
        files=files, events=files.events, models=models, publisher=publisher, run=run_blocking
    )


def conversion(files: WorkerFiles, scope: JobScope, request_id: str = "r") -> ConversionContext:
    files.enter(request_id, scope)
    return ConversionContext(request_id, ports=ports_of(files), job_id=scope.job_id)


def all_of(hub: Hub) -> HubClient:
    return HubClient(hub.url, hub.local.issue_token("admin"))


def put(ctx: ConversionContext, destination: str, name: str, data: bytes, folder: Path) -> Any:
    path = folder / name
    path.write_bytes(data)
    revisions = ctx._revisions
    assert revisions is not None
    session = run_blocking(revisions.session(destination, {}))
    return run_blocking(revisions.put(session, f"jobs/job-1/outputs/{name}", path))


def owned(hub: Hub, owner: str, **claims: Any) -> JobScope:
    """Return the scope of a job that may make and publish `<owner>/model`."""
    return hub.scope(owner=owner, create=(owner, ["model"]), **claims)


def test_what_was_put_becomes_a_revision(hub: Hub, files: WorkerFiles, tmp_path: Path) -> None:
    ctx, data = conversion(files, owned(hub, "alice")), os.urandom(100_000)
    facts = put(ctx, "alice/model", "notes.txt", data, tmp_path)
    assert facts["blob_digest"] == f"blake3:{facts['blake3']}"

    answer = ctx.publish_repo_revision(
        destination_repo="alice/model", destination_repo_tags=["prod"]
    )

    assert (answer["ok"], answer["owner"], answer["name"]) == (True, "alice", "model")
    assert (answer["job_id"], answer["destination_repo_tags"]) == ("job-1", ["prod"])
    (checkpoint,) = answer["checkpoint_ids"]
    assert answer["output_versions"] == [{"flavor": "default", "checkpoint_id": checkpoint}]
    with all_of(hub) as client:
        (entry,) = client.tree("alice", "model", tag="prod")
    assert entry["path"] == "notes.txt"
    run_blocking(ctx.release())  # leaves what is published alone
    with all_of(hub) as client:
        assert client.tree("alice", "model", tag="prod") == [entry]


def test_flavors_have_their_files_and_their_parent(
    hub: Hub, files: WorkerFiles, tmp_path: Path
) -> None:
    ctx = conversion(files, owned(hub, "bob"))
    flavors = []
    for name in ("bf16", "fp8"):
        facts = put(ctx, "bob/model", f"{name}.txt", name.encode(), tmp_path)
        entry = {
            "path": "notes.txt",
            "digest": facts["blob_digest"],
            "size_bytes": facts["size_bytes"],
        }
        flavors.append({"flavor": name, "snapshot_manifest": [entry], "display_label": name})
    answer = ctx.publish_repo_revision(
        destination_repo="bob/model",
        metadata={"checkpoint_flavors": flavors},
        source_repo="acme/source",
        source_version_id="blake3:" + "0" * 64,
        relationship_kind="fine-tune",
    )
    assert [version["flavor"] for version in answer["output_versions"]] == ["bf16", "fp8"]
    assert len(set(answer["checkpoint_ids"])) == 2


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"metadata": {"checkpoint_flavors": "bf16"}}, "must be a list of objects"),
        ({"snapshot_manifest": [{"path": "a"}]}, "is no FileEntry"),
        ({"artifact_refs": ["jobs/job-1/outputs/other"]}, "were not stored in this revision"),
        ({"create_if_missing": False}, "there is no repository 'carol/model'"),
    ],
)
def test_a_manifest_is_checked_and_its_revision_dropped(
    hub: Hub, files: WorkerFiles, tmp_path: Path, manifest: dict[str, Any], message: str
) -> None:
    ctx = conversion(files, owned(hub, "carol"))
    put(ctx, "carol/model", "x", b"x", tmp_path)
    (revision,) = files.requests.get("r").revisions.values()
    with pytest.raises(ValidationError, match=message):
        ctx.publish_repo_revision(destination_repo="carol/model", **manifest)
    assert revision.is_closed
    with all_of(hub) as client:
        assert client.tree("carol", "model") == []


def test_a_token_is_asked_before_the_hub_is(hub: Hub, files: WorkerFiles, tmp_path: Path) -> None:
    ctx = conversion(files, hub.scope(publish=["dave/model"]))
    with pytest.raises(ValidationError, match=r"repo-version:create for 'dave/other'"):
        put(ctx, "dave/other", "x", b"x", tmp_path)
    with pytest.raises(ValidationError, match="is no destination"):
        put(ctx, "dave", "x", b"x", tmp_path)
    assert files.requests.get("r").revisions == {}


def test_a_destination_is_asked_for_before_there_is_work_in_it(
    hub: Hub, files: WorkerFiles
) -> None:
    publisher = HubPublisher(files)

    def check(repo: str, **scope: Any) -> None:
        files.enter("c", msgspec.structs.replace(hub.scope(publish=["dave/model"]), **scope))
        try:
            run_blocking(publisher.check_destination(repo, request_id="c"))
        finally:
            files.leave("c")

    for repo, message in (
        ("dave/other", "repo-version:create for 'dave/other'"),
        ("dave/model", "tensor-repo:create"),  # as it is not there
        ("dave", "is no destination"),
    ):
        with pytest.raises(ValidationError, match=message):
            check(repo)
    with pytest.raises(AuthError):
        check("dave/model", capability_token="of another hub")
    check("dave/model", base_url="", capability_token="")  # there is nobody to ask
    owner = owned(hub, "dave")
    check("dave/model", capability_token=owner.capability_token)


def test_a_call_that_ends_drops_what_it_did_not_publish(
    hub: Hub, files: WorkerFiles, tmp_path: Path
) -> None:
    ctx = conversion(files, owned(hub, "erin"))
    put(ctx, "erin/model", "x", b"x", tmp_path)
    (revision,) = files.requests.get("r").revisions.values()
    run_blocking(ctx.release())
    assert revision.is_closed
    run_blocking(files.release("r"))
    assert len(files.requests) == 0


@pytest.mark.parametrize("is_hinted", [True, False])
def test_checkpoints_of_a_job_with_a_destination_are_published_with_it(
    hub: Hub, files: WorkerFiles, is_hinted: bool
) -> None:
    owner = f"frank-{is_hinted}".lower()
    hints = {"destination_repo": f"{owner}/model"} if is_hinted else {}
    ctx = conversion(files, owned(hub, owner, hints=hints))
    if not is_hinted:
        describe_job(ctx, {"destination": {"ref": f"{owner}/model"}})
    saved = ctx.save_checkpoint_bytes("w.bin", b"weights", produced_by_kind="training")
    assert type(saved) is Tensors
    answer = ctx.publish_repo_revision(
        destination_repo=f"{owner}/model",
        snapshot_manifest=[
            {"path": "notes.txt", "digest": saved.blob_digest, "size_bytes": saved.size_bytes}
        ],
    )
    assert answer["ok"]
    with all_of(hub) as client:
        (entry,) = client.tree(owner, "model")
    assert entry["size_bytes"] == 7


def test_a_checkpoint_of_a_training_needs_a_destination(hub: Hub, files: WorkerFiles) -> None:
    ctx = conversion(files, hub.scope())
    with pytest.raises(RuntimeError, match="tensor upload requires repo job scope"):
        ctx.save_checkpoint_bytes("w.bin", b"weights", produced_by_kind="training")


def test_a_checkpoint_nobody_published_is_dropped_with_its_revision(
    hub: Hub, files: WorkerFiles
) -> None:
    ctx = conversion(files, owned(hub, "gina", hints={"destination_repo": "gina/model"}))
    ctx.save_checkpoint_bytes("w.bin", b"weights")
    (revision,) = files.requests.get("r").revisions.values()
    run_blocking(files.release("r"))
    assert revision.is_closed


def test_without_a_hub_nothing_is_published(files: WorkerFiles) -> None:
    ctx = conversion(files, JobScope())
    answer = ctx.publish_repo_revision(destination_repo="acme/model")
    assert (answer["ok"], answer["skipped"]) == (False, True)
    assert answer["reason"] == "missing_worker_capability_channel"


def test_publishing_needs_a_job(hub: Hub, files: WorkerFiles) -> None:
    ctx = conversion(files, hub.scope(job_id=""))
    with pytest.raises(RuntimeError, match="needs a job_id"):
        ctx.publish_repo_revision(destination_repo="acme/model")


def test_a_repository_says_things_about_itself(
    hub: Hub, files: WorkerFiles, tmp_path: Path
) -> None:
    ctx = conversion(files, owned(hub, "hugo"))
    assert ctx.read_repo_metadata(destination_repo="hugo/model")["exists"] is False
    put(ctx, "hugo/model", "notes.txt", b"x", tmp_path)
    ctx.publish_repo_revision(destination_repo="hugo/model")
    written = ctx.write_repo_metadata(destination_repo="hugo/model", metadata={"a": 1})
    assert written["metadata"] == {"a": 1}
    assert ctx.read_repo_metadata(destination_repo="hugo/model") == {
        "ok": True,
        "exists": True,
        "metadata": {"a": 1},
    }


def test_a_dataset_is_made_and_changed(hub: Hub, files: WorkerFiles) -> None:
    scope = owned(hub, "ida")
    files.enter("r", scope)
    ctx = DatasetContext("r", ports=ports_of(files), job_id="job-1")
    saved = ctx.save_bytes("rows.txt", b"rows")
    answers = [
        ctx.publish_dataset_revision(
            destination_dataset="ida/rows",
            features_json={"text": "string"},
            kind="text",
            snapshot_manifest=[
                {"path": "rows.txt", "digest": f"blake3:{saved.blake3}", "size_bytes": 4}
            ],
        )
        for _ in range(2)
    ]
    assert [answer["existed"] for answer in answers] == [False, True]
    assert answers[0]["dataset_id"] == answers[1]["dataset_id"]


def test_others_are_refused_by_the_hub(hub: Hub, files: WorkerFiles) -> None:
    files.enter("r", hub.scope(owner="jack"))
    ctx = DatasetContext("r", ports=ports_of(files), job_id="job-1")
    with pytest.raises(AuthError):
        ctx.publish_dataset_revision(destination_dataset="ida/rows", features_json={})


# And back


def test_what_was_published_is_the_source_of_another_job(
    hub: Hub, files: WorkerFiles, tmp_path: Path
) -> None:
    scope = owned(hub, "kim")
    ctx = conversion(files, scope)
    put(ctx, "kim/model", "notes.txt", b"weights", tmp_path)
    ctx.publish_repo_revision(destination_repo="kim/model", destination_repo_tags=["prod"])
    run_blocking(files.release("r"))
    files.enter("s", scope)

    found = run_blocking(files.find_directory("kim/model", request_id="s"))

    assert found is not None
    assert found.startswith(files.requests.get("s").directory)
    with open(f"{found}/notes.txt", "rb") as file:
        assert file.read() == b"weights"
    with pytest.raises(AuthError):
        run_blocking(files.find_directory("kim/nothing", request_id="s"))
    with pytest.raises(ArtifactTransferError):
        run_blocking(files.find_directory("kim/model:none", request_id="s"))
    files.enter("t", hub.scope(owner="kim", read=["kim/nothing"]))
    assert run_blocking(files.find_directory("kim/nothing", request_id="t")) is None
    files.enter("u", JobScope())
    assert run_blocking(files.find_directory("kim/model", request_id="u")) is None
    with pytest.raises(ValidationError, match=r"is of no hub: import it with `gen_worker\.clone`"):
        run_blocking(files.find_directory("hf:Kim/Model", request_id="t"))


def test_a_dataset_comes_with_its_files(hub: Hub, files: WorkerFiles) -> None:
    token = hub.local.issue_token("write")
    files.enter("r", JobScope(base_url=hub.url, capability_token=token, owner="lea", job_id="j"))
    ctx = DatasetContext("r", ports=ports_of(files), job_id="job-1")
    saved = ctx.save_bytes("rows.txt", b"rows")
    entry = {"path": "data/rows.txt", "digest": f"blake3:{saved.blake3}", "size_bytes": 4}
    ctx.publish_dataset_revision(
        destination_dataset="lea/rows", features_json={}, snapshot_manifest=[entry]
    )

    found = ctx.resolve_dataset("lea/rows")

    with open(f"{found}/data/rows.txt", "rb") as file:
        assert file.read() == b"rows"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
def test_a_dataset_stays_in_its_directory(files: WorkerFiles, web: WebServer, path: str) -> None:
    entry = {"path": path, "digest": "blake3:" + "0" * 64, "size_bytes": 4}
    items = [{"id": "1", "name": "rows", "schema": {"__cozy_snapshot_manifest__": [entry]}}]
    web.page("/api/v1/repos/max/rows/resolve", b'{"error": "repo_not_found"}', status=404)
    web.page("/api/v1/datasets", msgspec.json.encode({"items": items}))
    files.enter("r", JobScope(base_url=web.origin, capability_token="t"))
    with pytest.raises(ValidationError, match="give a plain relative path"):
        run_blocking(files.find_directory("max/rows", request_id="r"))
    assert web.count() == 1


@pytest.mark.parametrize("schema", [{}, {"__cozy_snapshot_manifest__": "rows"}, "rows"])
def test_a_dataset_without_a_list_of_files_is_named(
    files: WorkerFiles, web: WebServer, schema: Any
) -> None:
    items = [{"id": "1", "name": "rows", "schema": schema}]
    web.page("/api/v1/datasets", msgspec.json.encode({"items": items}))
    files.enter("r", JobScope(base_url=web.origin, capability_token="t"))
    with pytest.raises(ArtifactTransferError, match="dataset 'max/rows' has no list of files"):
        run_blocking(files.find_directory("max/rows", request_id="r", is_dataset=True))
