"""Publishing on a laptop: what is kept, what is printed, what is answered."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from gen_worker.context import ConversionContext, DatasetContext, RequestContext
from gen_worker.context.jobs import JobKind
from gen_worker.context.local import run_blocking
from gen_worker.runtime.local import JsonLineEvents, local_ports
from gen_worker.spec import Call, FunctionSpec
from gen_worker.types import ProducedFlavor

if TYPE_CHECKING:
    from pathlib import Path


class Laptop:
    def __init__(self, tmp_path: Path) -> None:
        self.stderr = io.StringIO()
        self.outputs = tmp_path / "outputs"
        self.ports = local_ports(events=JsonLineEvents(self.stderr), output_dir=str(self.outputs))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr.getvalue().splitlines()]


def test_a_revision_is_printed_instead_of_published(tmp_path: Path) -> None:
    laptop = Laptop(tmp_path)

    answer = RequestContext("t", ports=laptop.ports).publish_repo_revision(
        destination_repo="a/b", destination_repo_tags=["prod"], metadata={"n": 1}
    )

    assert answer["stubbed"] is True
    assert answer["destination_repo"] == "a/b"
    assert answer["revision_id"].startswith("local-")
    assert len(answer["revision_id"]) == len("local-") + 8
    (line,) = laptop.lines()
    assert line["kind"] == "publish_repo_revision.stubbed"
    assert line["would_publish"] == {
        "destination_repo": "a/b",
        "destination_repo_tags": ["prod"],
        "metadata": {"n": 1},
        "create_if_missing": True,
        "relationship_kind": "import",
        "auto_create_external_parent": True,
    }


def test_a_dataset_is_printed_instead_of_published(tmp_path: Path) -> None:
    laptop = Laptop(tmp_path)

    answer = DatasetContext("t", ports=laptop.ports).publish_dataset_revision(
        destination_dataset="a/d", features_json={"prompt": "string"}
    )

    assert (answer["stubbed"], answer["ok"], answer["existed"]) == (True, True, False)
    assert (answer["owner"], answer["name"]) == ("a", "d")
    (line,) = laptop.lines()
    assert line["kind"] == "publish_dataset_revision.stubbed"
    assert line["would_publish"]["features_json"] == {"prompt": "string"}


def test_what_a_job_produced_outlives_its_scratch_space(tmp_path: Path) -> None:
    laptop = Laptop(tmp_path)
    kind = JobKind("conversion", ConversionContext)
    call = Call(
        spec=FunctionSpec(
            name="f",
            registered_name="f",
            python_name="f",
            kind="conversion",
            decorator="x",
            module="m",
            qualname="f",
            function=len,
            shape="sync",
            parameters=(),
            payload_type=None,
        ),
        request_id="r",
        raw_payload={"source": {"ref": str(tmp_path)}, "destination": {"ref": "a/b"}},
    )
    ctx = kind.context(laptop.ports, request_id="r", job_id="j")
    run_blocking(kind.before(call, ctx))
    assert ctx.source_path == str(tmp_path)
    scratch = ctx.mktemp()
    (scratch / "model.safetensors").write_bytes(b"weights")

    summary = run_blocking(kind.finish(call, ctx, [ProducedFlavor(scratch, flavor="bf16")]))
    run_blocking(ctx.release())

    assert not scratch.exists()
    (file,) = summary["flavors"][0]["files"]
    assert file["path"] == "model.safetensors"
    assert file["ref"] == f"jobs/j/outputs/{scratch.name}/model.safetensors"
    assert (laptop.outputs / file["ref"]).read_bytes() == b"weights"
    (line,) = laptop.lines()
    assert line["would_publish"]["files"] == [file["ref"]]
    flavor = line["would_publish"]["metadata"]["checkpoint_flavors"][0]
    assert flavor["snapshot_manifest"][0]["size_bytes"] == 7
    assert flavor["snapshot_manifest"][0]["digest"].startswith("sha256:")
    assert summary["published"]["stubbed"]
