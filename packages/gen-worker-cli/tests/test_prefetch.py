"""`gen-worker prefetch`: every declared model, once, with its outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cli

DIGEST = "ab" * 32
PROJECT = f"""
import msgspec
from typing import Literal
from gen_worker import HFRepo, Repo, RequestContext, dispatch
from gen_worker import inference, inference_function, invocable

class In(msgspec.Struct):
    text: str
    quality: Literal["draft", "final"] = "draft"

pinned = Repo("acme/pinned@blake3:{DIGEST}")

@inference_function(models={{"engine": pinned}})
def one(ctx: RequestContext, engine, payload: In) -> In:
    return payload

@inference(models={{"core": pinned, "other": HFRepo("acme/Other")}})
class Two:
    def setup(self, core, other):
        raise RuntimeError("prefetch never runs setup")

    @invocable
    def two(self, ctx: RequestContext, payload: In) -> In:
        return payload

@inference_function(models={{"engine": dispatch("quality", {{"draft": Repo("acme/small"),
                                                           "final": Repo("acme/large")}})}})
def three(ctx: RequestContext, engine, payload: In) -> In:
    return payload
"""


def fill_store(folder: Path) -> str:
    snapshot = folder / "cas" / "snapshots" / f"blake3:{DIGEST}"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"")
    return str(snapshot)


@pytest.mark.claims("prefetch.events", "exit.3")
def test_every_model_is_fetched_once_and_reported(cli: Cli) -> None:
    local = fill_store(cli.folder)
    done = cli(
        "prefetch",
        "--json",
        project=cli.write_project(PROJECT),
        TENSORHUB_CAS_DIR=str(cli.folder / "cas"),
    )
    lines: list[Any] = done.values
    assert done.code == 3
    pinned = f"acme/pinned@blake3:{DIGEST}"
    assert [line["kind"] for line in lines] == [
        "prefetch.note",
        "prefetch.plan",
        "model_fetch.started",
        "model_fetch.completed",
        "prefetch.ref.ready",
        "model_fetch.started",
        "prefetch.ref.failed",
        "prefetch.done",
    ]
    assert "--all-variants" in lines[0]["message"]
    assert lines[1]["count"] == 2
    assert lines[4] == {
        "kind": "prefetch.ref.ready",
        "ref": pinned,
        "provider": "tensorhub",
        "local": local,
    }
    assert lines[6].items() >= {"ref": "acme/Other", "provider": "hf"}.items()
    assert lines[6]["error"]
    assert lines[7] == {"kind": "prefetch.done", "fetched": 1, "failed": 1}


@pytest.mark.claims("prefetch.variants")
def test_all_variants_are_every_choice_of_a_payload(cli: Cli) -> None:
    done = cli("prefetch", "--json", "--all-variants", project=cli.write_project(PROJECT))
    lines: list[Any] = done.values
    failed = {line["ref"] for line in lines if line["kind"] == "prefetch.ref.failed"}
    assert failed >= {"acme/small:prod", "acme/large:prod"}
    assert not [line for line in lines if line["kind"] == "prefetch.note"]


@pytest.mark.claims("prefetch.sentences")
def test_without_json_there_are_sentences_on_stderr(cli: Cli) -> None:
    done = cli("prefetch", "--offline", project=cli.write_project(PROJECT))
    assert (done.stdout, done.code) == ("", 3)
    assert "gen-worker prefetch: 2 to fetch\n" in done.stderr
    assert "gen-worker prefetch: acme/Other (hf) failed: " in done.stderr
    assert done.stderr.endswith("gen-worker prefetch: 0 fetched, 2 failed\n")


@pytest.mark.claims("prefetch.nothing")
def test_nothing_to_fetch_is_success(cli: Cli) -> None:
    done = cli("prefetch", project="shapes")
    assert done.code == 0
    assert "gen-worker prefetch: nothing to fetch\n" in done.stderr
    assert cli("prefetch", "--json", project="shapes").values == [
        {"kind": "prefetch.plan", "count": 0},
        {"kind": "prefetch.done", "fetched": 0, "failed": 0},
    ]


@pytest.mark.claims("prefetch.keyspaces")
def test_models_of_the_toml_are_models_too(cli: Cli) -> None:
    folder = cli.write_project(
        "import msgspec\n"
        "from typing import Annotated\n"
        "from gen_worker import ModelRef, ModelRefSource, RequestContext, worker_function\n"
        "class In(msgspec.Struct):\n    size: str\n"
        "class Model: ...\n"
        "@worker_function()\n"
        "def transcribe(ctx: RequestContext,\n"
        "    asr: Annotated[Model, ModelRef(ModelRefSource.FIXED, 'asr_main')],\n"
        "    small: Annotated[Model, ModelRef(ModelRefSource.PAYLOAD, 'size')],\n"
        "    payload: In) -> In:\n    return payload\n"
    )
    toml = (folder / "endpoint.toml").read_text()
    (folder / "endpoint.toml").write_text(
        f'{toml}[models]\nasr_main = "acme/asr-large"\n'
        '[models.transcribe]\nfast = "acme/asr-small"\n'
    )
    done = cli("prefetch", "--json", "--all-variants", project=folder)
    lines: list[Any] = done.values
    assert [line["ref"] for line in lines if line["kind"] == "prefetch.ref.failed"] == [
        "acme/asr-large:prod",
        "acme/asr-small:prod",
    ]
