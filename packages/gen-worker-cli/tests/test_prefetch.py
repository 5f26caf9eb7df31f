"""`gen-worker prefetch`: every declared model, once, with its outcome."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cli, Hub, Terminal

PROJECT = """
import msgspec
from typing import Literal
from gen_worker import HFRepo, Repo, RequestContext, dispatch
from gen_worker import inference, inference_function, invocable

class In(msgspec.Struct):
    text: str
    quality: Literal["draft", "final"] = "draft"

pinned = Repo("acme/pinned@blake3:DIGEST")

@inference_function(models={"engine": pinned})
def one(ctx: RequestContext, engine, payload: In) -> In:
    return payload

@inference(models={"core": pinned, "other": HFRepo("acme/Other")})
class Two:
    def setup(self, core, other):
        raise RuntimeError("prefetch never runs setup")

    @invocable
    def two(self, ctx: RequestContext, payload: In) -> In:
        return payload

@inference_function(models={"engine": dispatch("quality", {"draft": Repo("acme/small"),
                                                           "final": Repo("acme/large")})})
def three(ctx: RequestContext, engine, payload: In) -> In:
    return payload
"""


def project_with(digest: str) -> str:
    return PROJECT.replace("DIGEST", digest)


@pytest.mark.claims("prefetch.events", "exit.3")
def test_every_model_is_fetched_once_and_reported(
    cli: Cli, shelve: Callable[..., tuple[str, str]]
) -> None:
    digest, local = shelve(**{"model.safetensors": "weights"})
    done = cli(
        "prefetch",
        "--json",
        "--offline",
        project=cli.write_project(project_with(digest)),
        TENSORHUB_CAS_DIR=str(cli.folder / "cas"),
    )
    lines: list[Any] = done.values
    assert done.code == 3
    pinned = {"ref": f"acme/pinned@blake3:{digest}", "provider": "tensorhub"}
    other = {"ref": "acme/Other", "provider": "hf"}
    path = f"{local}/model.safetensors"
    assert "--all-variants" in lines[0].pop("message")
    assert "nothing is fetched offline" in lines[6].pop("error")
    assert lines == [
        {"kind": "prefetch.note"},
        {"kind": "prefetch.plan", "count": 2, "files": 0, "bytes": 0, "present_bytes": 7},
        {"kind": "model_fetch.started", **pinned},
        {"kind": "model_fetch.completed", **pinned, "local_dir": path},
        {"kind": "prefetch.ref.ready", **pinned, "local": path},
        {"kind": "model_fetch.started", **other},
        {"kind": "prefetch.ref.failed", **other},
        {"kind": "prefetch.done", "fetched": 1, "failed": 1},
    ]


@pytest.mark.claims("prefetch.variants")
def test_all_variants_are_every_choice_of_a_payload(cli: Cli) -> None:
    done = cli(
        "prefetch",
        "--offline",
        "--json",
        "--all-variants",
        project=cli.write_project(project_with(64 * "a")),
    )
    lines: list[Any] = done.values
    failed = {line["ref"] for line in lines if line["kind"] == "prefetch.ref.failed"}
    assert failed >= {"acme/small:prod", "acme/large:prod"}
    assert not [line for line in lines if line["kind"] == "prefetch.note"]


VARIANTS = """
import msgspec
from typing import Literal
from gen_worker import Repo, RequestContext, SharedBase, dispatch, inference_function

class In(msgspec.Struct):
    style: Literal["oil", "ink"]

base = SharedBase("acme.Pipeline", vae=Repo("acme/vae"))

@inference_function(models={"pipe": dispatch("style", {
    "oil": base.variant(unet=Repo("acme/oil")),
    "ink": base.variant(unet=Repo("acme/ink"), scheduler=Repo("acme/steps"))})})
def paint(ctx: RequestContext, pipe, payload: In) -> In:
    return payload
"""


@pytest.mark.claims("prefetch.variants")
def test_every_part_of_a_variant_is_a_model(cli: Cli) -> None:
    folder = cli.write_project(VARIANTS)
    done = cli("prefetch", "--offline", "--json", "--all-variants", project=folder)
    lines: list[Any] = done.values
    failed = [line["ref"] for line in lines if line["kind"] == "prefetch.ref.failed"]
    expected = ["acme/vae:prod", "acme/oil:prod", "acme/ink:prod", "acme/steps:prod"]
    assert failed == expected, done.stderr


@pytest.mark.claims("prefetch.sentences")
def test_without_json_there_are_sentences_on_stderr(cli: Cli) -> None:
    done = cli("prefetch", "--offline", project=cli.write_project(project_with(64 * "a")))
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


@pytest.fixture
def published(cli: Cli, start_hub: Callable[..., Hub]) -> Hub:
    """A hub that has two flavors of one model; they share a file."""
    hub = start_hub()
    for flavor, text in (("small", "s" * 1000), ("large", "l" * 5000)):
        folder = cli.folder / flavor
        folder.mkdir()
        (folder / "weights").write_text(text)
        (folder / "shared").write_text("x" * 100)
        pushed = cli("hub", "push", str(folder), f"acme/engine#{flavor}", TENSORHUB_URL=hub.url)
        assert pushed.code == 0
    return hub


MANY = """
import msgspec
from typing import Literal
from gen_worker import Repo, RequestContext, dispatch, inference_function

class In(msgspec.Struct):
    quality: Literal["small", "large", "none"] = "small"

@inference_function(models={"engine": dispatch("quality", {
    name: Repo(f"acme/engine#{name}") for name in ("small", "large", "none")})})
def paint(ctx: RequestContext, engine, payload: In) -> In:
    return payload
"""


@pytest.mark.claims("prefetch.bytes", "prefetch.offline")
def test_what_is_fetched_is_said_in_bytes_and_is_here_offline_then(
    cli: Cli, published: Hub
) -> None:
    words = ("prefetch", "--json", "--all-variants")
    folder = cli.write_project(MANY)
    miss: list[Any] = cli(*words, "--offline", project=folder, TENSORHUB_URL=published.url).values
    assert miss[0] == {"kind": "prefetch.plan", "count": 3}
    assert miss[-1] == {"kind": "prefetch.done", "fetched": 0, "failed": 3}

    done = cli(*words, project=folder, TENSORHUB_URL=published.url)
    lines: list[Any] = done.values
    assert (done.code, done.stderr) == (3, "")
    size = {"files": 4, "bytes": 6200, "present_bytes": 0}
    assert lines[0] == {"kind": "prefetch.plan", "count": 3, **size}
    failed = [line for line in lines if line["kind"] == "prefetch.ref.failed"]
    assert [line["ref"] for line in failed] == ["acme/engine:prod#none"]
    assert "'large', 'small'" in failed[0]["error"]
    assert lines[-1] == {"kind": "prefetch.done", "fetched": 2, "failed": 1}

    published.stop()
    again: list[Any] = cli(*words, "--offline", project=folder).values
    size = {"files": 0, "bytes": 0, "present_bytes": 6200}
    assert again[0] == {"kind": "prefetch.plan", "count": 3, **size}
    ready = [line for line in again if line["kind"] == "prefetch.ref.ready"]
    assert [line["ref"] for line in ready] == ["acme/engine:prod#small", "acme/engine:prod#large"]


@pytest.mark.claims("prefetch.bytes")
def test_people_read_how_much_is_fetched_and_see_a_bar(
    cli: Cli, published: Hub, terminal: Terminal
) -> None:
    cli.write_project(MANY)
    terminal.start(
        "prefetch",
        "--all-variants",
        project=str(cli.folder),
        environment={
            "TENSORHUB_URL": published.url,
            "GEN_WORKER_MAX_DOWNLOAD_BYTES_PER_S": "2000",
        },
    )
    terminal.expect("3 to fetch: 4 files, 6.1 KiB; 0 B are here already")
    terminal.expect(" of 6.1 KiB")
    terminal.expect("acme/engine:prod#large (tensorhub) is here: ")
    terminal.expect("2 fetched, 1 failed")
    assert terminal.wait() == 3


@pytest.mark.claims("prefetch.signals")
def test_a_signal_ends_it(cli: Cli, published: Hub) -> None:
    cli.write_project(MANY)
    process = cli.start(
        "prefetch",
        "--json",
        "--all-variants",
        TENSORHUB_URL=published.url,
        GEN_WORKER_MAX_DOWNLOAD_BYTES_PER_S="100",
    )
    assert process.stdout is not None
    while '"model_fetch.started"' not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 130
