"""A job that runs here takes its source from the models that are here already."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cli, Hub

PROJECT = """
import msgspec
from gen_worker import Repo, RequestContext, SourceRepo, inference_function

class In(msgspec.Struct):
    source: SourceRepo

class Text(msgspec.Struct):
    text: str = ""

@inference_function(models={"a": Repo("acme/one")})
def paint(ctx: RequestContext, a, payload: Text) -> Text:
    return payload

@inference_function
def look(ctx: RequestContext, payload: In) -> Text:
    import os
    return Text(",".join(os.listdir(ctx.source_path)) if ctx.source_path else "nothing")
"""


def test_a_ref_that_was_fetched_is_a_source(cli: Cli, start_hub: Callable[..., Hub]) -> None:
    hub = start_hub()
    environment = {"TENSORHUB_CAS_DIR": str(cli.folder / "cas"), "TENSORHUB_URL": hub.url}
    (cli.folder / "one").mkdir()
    (cli.folder / "one" / "weights").write_text("weights")
    pushed = cli("hub", "push", "one", "acme/one", **environment)
    checkpoint = json.loads(pushed.stdout)["checkpoint_ids"][0]
    project = cli.write_project(PROJECT)
    assert cli("prefetch", project=project, **environment).code == 0

    for source, told in (
        ({"ref": "acme/one"}, "weights"),
        ({"ref": "acme/two"}, "nothing"),
        ({"ref": "acme/one", "checkpoint_id": checkpoint}, "weights"),
        ({"ref": "acme/one", "checkpoint_id": "blake3:" + "0" * 64}, "nothing"),
        ({"ref": "acme/one", "attributes": {"dtype": "nf4"}}, "nothing"),
    ):
        words = ("run", "look", "--payload", json.dumps({"source": source}), "--raw")
        done = cli(*words, project=project, **environment)
        assert done.code == 0, done.stderr
        assert json.loads(done.stdout) == {"text": told}
    payload = json.dumps({"source": {"ref": "./one", "checkpoint_id": checkpoint}})
    refused = cli("run", "look", "--payload", payload, project=project, **environment)
    assert refused.code == 2
    assert "is a directory and no checkpoint" in refused.stderr
