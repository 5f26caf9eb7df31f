"""`gen-worker run`: one call of every shape, its payload, its answer, its exit code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Cli, Finished


def result(value: Any) -> dict[str, Any]:
    return {"event": "result", "value": value}


def item(value: Any) -> dict[str, Any]:
    return {"event": "yield", "value": value}


@pytest.mark.claims("run.sync", "output.event-lines", "exit.0")
def test_a_plain_function_prints_one_result_line(shapes: Callable[..., Finished]) -> None:
    done = shapes("run", "echo", "a b", "times=2")
    assert done.stdout == '{"event":"result","value":{"text":"a b a b"}}\n'
    assert (done.stderr, done.code) == ("", 0)


@pytest.mark.claims("run.stream", "run.async")
@pytest.mark.parametrize("function", ["count", "ticks"])
def test_a_generator_prints_its_items_and_their_number(
    shapes: Callable[..., Finished], function: str
) -> None:
    done = shapes("run", function, "limit=2")
    assert done.stdout == (
        '{"event":"yield","value":{"n":1}}\n'
        '{"event":"yield","value":{"n":2}}\n'
        '{"event":"result","value":{"yielded":2}}\n'
    )
    assert (done.stderr, done.code) == ("", 0)


@pytest.mark.claims("run.async")
def test_a_coroutine_is_awaited(shapes: Callable[..., Finished]) -> None:
    assert shapes("run", "later", "soon").values == [result({"text": "soon"})]


@pytest.mark.claims("exit.1")
def test_a_forgotten_await_fails_here_as_it_would_on_a_server(cli: Cli) -> None:
    cli.write_project(
        "import msgspec\n"
        "from gen_worker import inference_function\n"
        "class Text(msgspec.Struct):\n    text: str\n"
        "async def said() -> str:\n    return 'hi'\n"
        "@inference_function\n"
        "async def whole(ctx, payload: Text) -> Text:\n    return said()\n"
        "@inference_function\n"
        "async def inside(ctx, payload: Text) -> Text:\n    return Text(said())\n"
    )
    for function in ("whole", "inside"):
        done = cli("run", function, "x", project=cli.folder)
        assert (done.stdout, done.code) == ("", 1)
        assert done.stderr.rstrip().endswith(": write `await` before its call")


@pytest.mark.claims("run.class-life")
def test_a_class_is_set_up_warmed_up_and_shut_down_once(shapes: Callable[..., Finished]) -> None:
    done = shapes("run", "paint-it", "fox")
    assert done.values == [result({"caption": "fox 1"})]
    assert done.stderr.splitlines() == ["painter: setup", "painter: warmup", "painter: shutdown"]


@pytest.mark.claims("run.class-life")
def test_shutdown_runs_after_a_failure_too(shapes: Callable[..., Finished]) -> None:
    done = shapes("run", "spoil", "fox")
    assert done.code == 1
    assert done.stderr.count("painter: shutdown") == 1


@pytest.mark.claims("run.class-life")
def test_a_class_that_was_not_set_up_is_not_shut_down(shapes: Callable[..., Finished]) -> None:
    done = shapes("run", "paint-it", "prompt:=1")
    assert done.code == 2
    assert "painter" not in done.stderr


@pytest.mark.claims("exit.1")
def test_a_crash_shows_the_authors_traceback(shapes: Callable[..., Finished]) -> None:
    done = shapes("run", "crashing")
    assert (done.stdout, done.code) == ("", 1)
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert 'raise RuntimeError("boom /tmp/some/private/path")' in done.stderr
    assert done.stderr.endswith("RuntimeError: boom /tmp/some/private/path\n")


@pytest.mark.claims("exit.1")
@pytest.mark.parametrize("function", ["refusing", "busy_elsewhere"])
def test_what_the_handler_refuses_is_exit_1(shapes: Callable[..., Finished], function: str) -> None:
    done = shapes("run", function)
    assert (done.stdout, done.code) == ("", 1)
    assert "Traceback" in done.stderr


@pytest.mark.claims("exit.1")
def test_a_setup_that_fails_is_exit_1(cli: Cli) -> None:
    folder = cli.write_project(
        "import msgspec\n"
        "from gen_worker import RequestContext, inference, invocable\n"
        "class In(msgspec.Struct):\n    text: str\n"
        "@inference\n"
        "class Broken:\n"
        "    def setup(self):\n        raise RuntimeError('no weights')\n"
        "    @invocable\n"
        "    def go(self, ctx: RequestContext, payload: In) -> In:\n        return payload\n"
    )
    done = cli("run", "x", project=folder)
    assert (done.stdout, done.code) == ("", 1)
    assert "in setup\n    raise RuntimeError('no weights')\n" in done.stderr, "the author's line"


@pytest.mark.claims("payload.invalid", "exit.2")
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--payload", "{", "echo"], "--payload is not JSON"),
        (["--payload", "[1]", "echo"], "--payload is not a JSON object, but a list"),
        (["--payload", '{"text": 1}', "echo"], "Expected `str`, got `int` - at `$.text`"),
        (["--payload", "{}", "echo"], "missing required field `text`"),
        (["--payload-file", "nowhere.json", "echo"], "cannot read the payload file 'nowhere.json'"),
        (["--payload", "{}", "--payload-file", "x", "echo"], "both give the payload: use one"),
        (["echo", "x", "times=many"], "expected an integer, got 'many' - at `$.times`"),
        (["echo", "x", "mood=sad"], "expected one of 'calm', 'loud', got 'sad' - at `$.mood`"),
        (["echo", "x", "tmies=2"], "no field 'tmies', did you mean 'times'?"),
        (["echo", b"\xff".decode("utf-8", "surrogateescape")], "is not UTF-8 text"),
    ],
)
def test_a_wrong_payload_is_exit_2_and_no_traceback(
    shapes: Callable[..., Finished], words: list[str], part: str
) -> None:
    done = shapes("run", *words)
    assert (done.stdout, done.code) == ("", 2)
    assert part in done.stderr
    assert done.stderr.startswith("gen-worker run: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.claims("payload.inline", "payload.file", "payload.stdin")
def test_the_payload_comes_from_anywhere(cli: Cli, tmp_path: Path) -> None:
    text = '{"text": "a", "tags": ["x"]}'
    (tmp_path / "request.json").write_text(text)
    for words, stdin in (
        (["--payload", text], ""),
        (["--payload-file", "request.json"], ""),
        (["-"], text),
        (["--payload", "-"], text),
        (["--payload-file", "-"], text),
    ):
        done = cli("run", "tags", *words, "tags=y", "--raw", project="shapes", stdin=stdin)
        assert done.values == [{"text": "y"}], (words, done.stderr)


@pytest.mark.claims("args.after-dashes")
def test_arguments_that_begin_with_a_dash(shapes: Callable[..., Finished]) -> None:
    done = shapes("run", "echo", "times=2", "--", "--config")
    assert done.values == [result({"text": "--config --config"})]


@pytest.mark.claims("function.first-word", "function.lookup")
@pytest.mark.parametrize("name", ["paint-it", "paint", "paint_it"])
def test_a_function_has_several_names(shapes: Callable[..., Finished], name: str) -> None:
    done = shapes("run", name, "fox")
    if name == "paint_it":  # neither its registered name, its slug nor its Python name
        assert done.code == 2
        assert "did you mean 'paint-it'?" in done.stderr
    else:
        assert done.values == [result({"caption": "fox 1"})]


@pytest.mark.claims("function.several")
def test_several_functions_have_to_be_told_apart(shapes: Callable[..., Finished]) -> None:
    done = shapes("run", "text=a")
    assert done.code == 2
    assert "this endpoint has several functions, name one first: busy, busy_elsewhere" in (
        done.stderr
    )


@pytest.mark.claims("function.class-method")
@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        (["--class", "Painter", "--method", "paint"], "fox 1"),
        (["--method", "paint-it"], "fox 1"),
        (["--class", "Painter"], "several functions for --class Painter"),
        (["--class", "Sculptor"], "no function for --class Sculptor; available: Painter.paint"),
        (["--method", "sculpt"], "no function for --method sculpt; available: Painter.paint"),
    ],
)
def test_class_and_method_choose(
    shapes: Callable[..., Finished], words: list[str], outcome: str
) -> None:
    done = shapes("run", *words, "prompt=fox")
    assert outcome in done.stdout + done.stderr
    assert done.code == (0 if outcome == "fox 1" else 2)


@pytest.mark.claims("function.only-one")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["hello"], "hello"),
        (["echo"], "echo"),
        (["echo", "hello"], "hello"),
        (["echo", "text=hello"], "hello"),
        (["echo", "--payload", '{"text":"hello"}'], "hello"),
        (["text=echo"], "echo"),
    ],
)
def test_one_function_needs_no_name(cli: Cli, words: list[str], text: str) -> None:
    folder = cli.write_project(
        "import msgspec\n"
        "from gen_worker import RequestContext, inference_function\n"
        "class In(msgspec.Struct):\n    text: str\n"
        "@inference_function\n"
        "def echo(ctx: RequestContext, payload: In) -> In:\n    return payload\n"
    )
    assert cli("run", "--raw", *words, project=folder).values == [{"text": text}]


@pytest.mark.claims("output.raw", "output.pretty")
def test_the_form_of_values(shapes: Callable[..., Finished]) -> None:
    bare = shapes("run", "count", "limit=1", "--raw")
    assert bare.stdout == '{"n":1}\n{"yielded":1}\n'
    pretty = shapes("run", "echo", "a", "--pretty")
    assert pretty.stdout == ('{\n  "event": "result",\n  "value": {\n    "text": "a"\n  }\n}\n')


@pytest.mark.claims("output.author-prints")
def test_what_the_author_prints_goes_to_stderr(shapes: Callable[..., Finished]) -> None:
    done = shapes("run", "noisy")
    assert done.values == [result({"text": "clean"})]
    assert sorted(done.stderr.splitlines()) == ["a child", "a print", "a raw write"]


@pytest.mark.claims("output.context-events")
def test_context_events_are_sorted_json_lines_on_stderr(shapes: Callable[..., Finished]) -> None:
    done = shapes("run", "reporting")
    (answer,) = done.values
    assert isinstance(answer, dict)
    request_id = answer["value"]["text"]
    assert request_id.startswith("local-")
    assert len(request_id) == len("local-") + 8
    assert all(list(report) == sorted(report) for report in done.reports)
    assert {report["request_id"] for report in done.reports} == {request_id}
    assert all(isinstance(report["timestamp"], float) for report in done.reports)
    assert [(report["type"], report["payload"]) for report in done.reports] == [
        ("request.progress", {"progress": 0.5, "stage": "half"}),
        ("request.log", {"level": "warning", "message": "a line"}),
        ("shapes.custom", {"a": [1], "z": 1}),
    ]


@pytest.mark.claims("run.identity")
@pytest.mark.parametrize(("user", "owner"), [("ada", "ada"), ("", "local-dev")])
def test_a_call_knows_whose_it_is(cli: Cli, user: str, owner: str) -> None:
    folder = cli.write_project(
        "import msgspec\n"
        "from gen_worker import RequestContext, inference_function\n"
        "class In(msgspec.Struct):\n    pass\n"
        "class Out(msgspec.Struct):\n    request: str\n    job: str\n    owner: str\n"
        "@inference_function\n"
        "def who(ctx: RequestContext, payload: In) -> Out:\n"
        "    return Out(request=ctx.request_id, job=ctx.job_id, owner=ctx.owner)\n"
    )
    (answer,) = cli("run", "--raw", project=folder, USER=user).values
    assert isinstance(answer, dict)
    assert re.fullmatch("local-[0-9a-f]{8}", answer["request"])
    assert (answer["job"], answer["owner"]) == (answer["request"], owner)


@pytest.mark.claims("run.timeout")
@pytest.mark.parametrize("function", ["polite", "busy", "waiting", "endless"])
def test_a_timeout_ends_any_handler(shapes: Callable[..., Finished], function: str) -> None:
    done = shapes("run", function, "--timeout", "0.2", "--raw")
    assert done.code == 1
    assert done.stderr.endswith("gen-worker run: deadline exceeded\n")


FAKE_TORCH = """
class cuda:
    is_available = staticmethod(lambda: False)

class device:
    def __init__(self, name):
        self.name = name
        self.type, _, self.index = name.partition(":")

    def __str__(self):
        return self.name
"""


@pytest.mark.claims("run.device")
def test_device_is_what_the_handler_sees(cli: Cli) -> None:
    folder = cli.write_project(
        "import msgspec\n"
        "from gen_worker import RequestContext, inference_function\n"
        "class In(msgspec.Struct):\n    pass\n"
        "class Out(msgspec.Struct):\n    device: str\n"
        "@inference_function\n"
        "def where(ctx: RequestContext, payload: In) -> Out:\n"
        "    return Out(device=str(ctx.device))\n",
        **{"torch.py": FAKE_TORCH},
    )
    chosen = cli("run", "--device", "cuda:1", "--raw", project=folder)
    assert chosen.values == [{"device": "cuda:1"}], chosen.stderr
    setting = cli("run", "--raw", project=folder, GEN_WORKER_LOCAL_DEVICE="cuda:2")
    assert setting.values == [{"device": "cuda:2"}]
    assert cli("run", "--raw", project=folder).values == [{"device": "cpu"}]


@pytest.mark.claims("run.outputs")
@pytest.mark.parametrize(
    ("words", "environment", "root"),
    [
        ([], {}, ".gen-worker-run/outputs"),
        (["-o", "out"], {}, "out"),
        ([], {"GEN_WORKER_LOCAL_OUTPUT_DIR": "elsewhere"}, "elsewhere"),
    ],
)
def test_output_files_land_in_a_folder_of_choice(
    cli: Cli, tmp_path: Path, words: list[str], environment: dict[str, str], root: str
) -> None:
    done = cli("run", "saving", "hello", "--raw", *words, project="shapes", **environment)
    (answer,) = done.values
    assert isinstance(answer, dict)
    stored = answer["file"]
    assert stored["size_bytes"] == 5
    assert len(stored["sha256"]) == 64
    assert (tmp_path / root / stored["ref"]).read_text() == "hello"
    assert stored["local_path"] == str(tmp_path / root / stored["ref"])


@pytest.mark.claims("run.local-files")
def test_a_local_file_is_an_asset(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(24))
    for word in ("image@cat.png", "cat.png"):
        done = cli("run", "looking", word, "--raw", project="shapes")
        assert done.values == [{"text": "image/png 32"}], done.stderr


MODEL = """
import msgspec
from gen_worker import Repo, RequestContext, inference_function

class In(msgspec.Struct):
    text: str

@inference_function(models={"engine": Repo("acme/painter"),
                            "free": Repo("acme/other").allow_override("acme.Pipe")})
def paint(ctx: RequestContext, engine, free, payload: In) -> In:
    return payload
"""


@pytest.mark.claims("run.models", "exit.3")
@pytest.mark.parametrize("words", [["--offline"], []])
def test_a_model_that_is_not_here_is_exit_3(cli: Cli, words: list[str]) -> None:
    done = cli("run", "x", *words, project=cli.write_project(MODEL))
    assert (done.stdout, done.code) == ("", 3)
    assert "acme/painter" in done.stderr
    assert "Traceback" not in done.stderr


KEYED = """
import msgspec
from typing import Annotated
from gen_worker import ModelRef, ModelRefSource, RequestContext, worker_function

class In(msgspec.Struct):
    size: str

class Out(msgspec.Struct):
    paths: list[str]

@worker_function()
def transcribe(
    ctx: RequestContext,
    fixed: Annotated[str, ModelRef(ModelRefSource.FIXED, "asr")],
    chosen: Annotated[str, ModelRef(ModelRefSource.PAYLOAD, "size")],
    payload: In,
) -> Out:
    return Out(paths=[fixed, chosen])
"""


@pytest.mark.claims("run.keyspaces")
def test_models_named_by_keys_of_the_toml(
    cli: Cli, tmp_path: Path, shelve: Callable[..., tuple[str, str]]
) -> None:
    folder = cli.write_project(KEYED)
    missing = cli("run", "small", project=folder)
    assert missing.code == 2
    assert "model 'asr', which [models] does not have" in missing.stderr
    (large, large_at), (small, small_at) = shelve(notes="large"), shelve(notes="small")
    with (folder / "endpoint.toml").open("a") as toml:
        toml.write(
            f'[models]\nasr = "acme/asr@blake3:{large}"\n'
            f'[models.transcribe]\nsmall = "acme/small@blake3:{small}"\n'
        )
    store = str(tmp_path / "cas")
    done = cli("run", "small", "--raw", project=folder, TENSORHUB_CAS_DIR=store)
    assert done.values == [{"paths": [large_at, small_at]}], done.stderr
    unknown = cli("run", "huge", project=folder, TENSORHUB_CAS_DIR=store)
    assert unknown.code == 2
    assert "at `$.size`" in unknown.stderr


@pytest.mark.claims("run.requirements")
def test_what_this_machine_lacks_is_told_and_tried(cli: Cli) -> None:
    folder = cli.write_project(
        "import msgspec\n"
        "from gen_worker import RequestContext, Resources, inference_function\n"
        "class In(msgspec.Struct):\n    text: str\n"
        "@inference_function(resources=Resources(required_libraries=('no_such_lib',)))\n"
        "def echo(ctx: RequestContext, payload: In) -> In:\n    return payload\n"
    )
    done = cli("run", "x", "--raw", project=folder)
    assert (done.values, done.code) == ([{"text": "x"}], 0)
    assert "echo may fail on this machine: not importable: no_such_lib" in done.stderr


@pytest.mark.claims("run.overrides")
@pytest.mark.parametrize(
    ("envelope", "part"),
    [
        ('{"nobody": "acme/mine"}', "nobody"),
        ('{"engine": "acme/mine"}', "engine"),
        ('{"free": ""}', "free"),
        ("3", "_models"),
    ],
)
def test_an_override_that_is_not_allowed_is_exit_2(cli: Cli, envelope: str, part: str) -> None:
    done = cli("run", "x", f"_models:={envelope}", project=cli.write_project(MODEL))
    assert (done.stdout, done.code) == ("", 2)
    assert part in done.stderr
    assert "Traceback" not in done.stderr


PUBLISHING = """
import msgspec
from gen_worker import ConversionContext, conversion, invocable
from gen_worker.types import ProducedFlavor

class In(msgspec.Struct):
    repo: str

@conversion
class Publish:
    def setup(self): ...

    @invocable
    def go(self, ctx: ConversionContext, payload: In) -> list[ProducedFlavor]:
        ctx.emit("answer", dict(ctx.publish_repo_revision(destination_repo=payload.repo)))
        return []
"""


@pytest.mark.claims("run.publish")
def test_publishing_only_says_what_it_would_do(cli: Cli) -> None:
    folder = cli.write_project(PUBLISHING)
    stubbed = cli("run", "acme/mine", project=folder)
    assert stubbed.code == 0, stubbed.stderr
    line, answer = stubbed.reports
    assert line["kind"] == "publish_repo_revision.stubbed"
    assert "acme/mine" in str(line["would_publish"])
    payload = answer["payload"]
    assert isinstance(payload, dict)
    assert (payload["stubbed"], payload["destination_repo"]) == (True, "acme/mine")
    assert payload["revision_id"].startswith("local-")
