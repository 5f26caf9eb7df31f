"""Every member that the product's table of contexts names is there, on every context it names."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import gen_worker as gw

IDENTITY = (
    *("request_id", "job_id", "workspace_scope_id", "owner", "invoker_id"),
    *("parent_request_id", "child_request_id", "item_id", "item_index", "item_span"),
)
TIME = ("timeout_ms", "deadline", "time_remaining_s")
FACTS = (
    *("compute", "models", "resolved_repos_by_id", "resolved_cozy_models_by_id"),
    *("required_models", "execution_hints", "source", "source_path", "destination", "hf_token"),
)
CANCEL = (
    *("is_canceled", "raise_if_canceled", "cancel", "done"),
    *("cancel_event", "cancelled", "wait_until_canceled", "cancel_token"),
)
REPORTS = ("progress", "log", "emit")
OUTPUTS = (
    *("partition_context", "item_output_ref", "save_bytes", "save_file", "save_bytes_create"),
    *("save_file_create", "save_image", "save_checkpoint", "save_checkpoint_bytes"),
    *("open_output_stream", "save_output_stream", "open_checkpoint_stream"),
    *("publish_repo_revision", "finalize_checkpoints", "set_repo_spec"),
)
OLDER = ("preferred_batch_size", "prefetch_depth")
PRODUCER = (
    *("read_repo_metadata", "write_repo_metadata", "materialize_blob", "mktemp"),
    *("checkpoint_dir", "open_output_writer", "copy_unconverted_components", "cancelled"),
)
MEMBERS = {
    gw.RequestContext: (*IDENTITY, *TIME, *FACTS, *CANCEL, *REPORTS, *OUTPUTS, *OLDER),
    gw.ConversionContext: PRODUCER,
    gw.TrainingContext: PRODUCER,
    gw.DatasetContext: ("publish_dataset_revision", "resolve_dataset", "materialize_blob"),
}
ROWS = [(context, member) for context, members in MEMBERS.items() for member in members]


@pytest.mark.parametrize(("context", "member"), ROWS)
def test_every_member_is_there(context: type[gw.RequestContext], member: str) -> None:
    assert hasattr(context("t"), member)


@pytest.mark.parametrize("context", MEMBERS)
def test_every_context_is_a_request_context(context: type) -> None:
    assert issubclass(context, gw.RequestContext)


@pytest.mark.parametrize("context", MEMBERS)
def test_a_cancel_is_seen_through_every_door(context: type[gw.RequestContext]) -> None:
    ctx = context("t")
    assert (ctx.is_canceled(), bool(ctx.cancelled), ctx.done().is_set()) == (False, False, False)
    ctx.cancel()
    assert (ctx.is_canceled(), bool(ctx.cancelled), ctx.done().is_set()) == (True, True, True)
    assert ctx.cancelled() is True
    assert ctx.cancel_event.is_set()
    asyncio.run(ctx.wait_until_canceled())


@pytest.mark.parametrize("context", MEMBERS)
def test_outputs_land_below_the_requests_own_directory(
    context: type[gw.RequestContext], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GEN_WORKER_LOCAL_OUTPUT_DIR", str(tmp_path))
    ctx = context("req-1")
    for stored in (ctx.save_bytes("a/b.txt", b"x"), ctx.save_bytes_create("/a/c.txt", b"x")):
        assert Path(str(stored.local_path)).read_bytes() == b"x"
        assert Path(str(stored.local_path)).is_relative_to(tmp_path)
    with pytest.raises(FileExistsError):
        ctx.save_bytes_create("a/b.txt", b"y")
    for ref in ("", "https://example.com/a", "../../escape"):
        with pytest.raises(ValueError, match=r"ref|path"):
            ctx.save_bytes(ref, b"x")
    wrong: Any = "text"
    with pytest.raises(TypeError):
        ctx.save_bytes("a/d.txt", wrong)
    assert ctx.item_output_ref("x.png") == "jobs/req-1/outputs/items/item-000000/x.png"
    with ctx.open_output_stream("a/e.txt") as stream:
        assert stream.write(b"abc") == 3
    assert stream.finalize().size_bytes == 3
    with pytest.raises(RuntimeError):
        stream.write(b"d")


@pytest.mark.parametrize("context", [gw.ConversionContext, gw.TrainingContext])
def test_publishing_without_a_hub_says_that_it_was_skipped(context: Any) -> None:
    answer = context("t").publish_repo_revision(destination_repo="acme/out")
    assert (answer["ok"], answer["skipped"]) == (False, True)
    assert answer["reason"] == "missing_worker_capability_channel"
