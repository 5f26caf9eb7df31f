"""`python -m gen_worker.testing.mock_orchestrator`: real processes on both ends, as on a laptop."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from blake3 import blake3

from gen_worker.runtime.loop import run
from gen_worker.testing import mock_orchestrator
from gen_worker.testing.file_api import FileApi
from gen_worker.testing.held_port import HeldPort
from gen_worker.testing.workers import WorkerProcess

CODE = """
from collections.abc import Iterator
import msgspec
from gen_worker import RequestContext, inference_function

class Text(msgspec.Struct):
    text: str = ""
    refs: list[dict[str, str]] = []

@inference_function
def marco_polo(ctx: RequestContext, payload: Text) -> Text:
    if payload.text != "marco":
        raise ValueError("who?")
    ctx.log("heard")
    return Text("polo", payload.refs)

@inference_function
def spell(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    ctx.log("spelling")
    for letter in payload.text:
        yield Text(letter)

@inference_function
def sleep(ctx: RequestContext, payload: Text) -> Text:
    ctx.cancel_token.wait()
    ctx.raise_if_canceled()
    return payload
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with HeldPort() as held:
        yield held.number


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[WorkerProcess]:
    """One worker, started once, for all the runs of this module."""
    project = tmp_path_factory.mktemp("project")
    (project / "endpoint.toml").write_text('schema_version = 1\nname = "m"\nmain = "polo"\n')
    (project / "polo.py").write_text(CODE)
    with WorkerProcess(project, f"127.0.0.1:{port}") as process:
        yield process


def mock(port: int, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gen_worker.testing.mock_orchestrator"]
    return subprocess.run(
        [*command, "--listen", f"127.0.0.1:{port}", *words],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def section(text: str, name: str) -> str:
    """Return what was printed under a tag."""
    return text.partition(f"[{name}]")[2].strip()


def test_one_worker_serves_run_after_run(worker: WorkerProcess, port: int) -> None:
    for _ in range(2):
        done = mock(port, "--run", "marco-polo", "--payload-json", '{"text": "marco"}')
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(section(done.stdout, "output")) == {"text": "polo", "refs": []}
        connected = section(done.stdout, "connected").splitlines()[0]
        assert "worker_id=worker-1" in connected
        assert "marco-polo" in connected
        assert '"authorization":"***"' in connected
        assert "dev-worker-jwt" not in done.stdout


def test_a_stream_is_printed_as_it_comes(worker: WorkerProcess, port: int) -> None:
    words = ("--run", "spell", "--payload-json", '{"text": "abc"}', "--print-events")
    done = mock(port, *words, "--print-registrations")
    assert done.returncode == 0, done.stderr
    deltas = [
        json.loads(line.removeprefix("[delta] "))
        for line in done.stdout.splitlines()
        if line.startswith("[delta] ")
    ]
    assert "".join(delta["text"] for delta in deltas) == "abc"
    assert "[output] <empty>" in done.stdout
    assert "[event] request.log {" in done.stdout
    assert "[registration] Registration(" in done.stdout


def test_a_job_that_fails(worker: WorkerProcess, port: int) -> None:
    done = mock(port, "--run", "marco-polo", "--payload-json", '{"text": "nobody"}')
    assert (done.returncode, done.stderr) == (
        1,
        "mock_orchestrator: the job failed: validation: who?\n",
    )


def test_a_function_that_nobody_has(worker: WorkerProcess, port: int) -> None:
    done = mock(port, "--run", "columbus")
    assert done.returncode == 1
    assert done.stderr == (
        "mock_orchestrator: the job failed: internal: internal error; "
        "the worker has marco-polo, spell, sleep\n"
    )


def test_events_are_printed_to_the_last(worker: WorkerProcess, port: int) -> None:
    words = ("--print-events", "--run", "sleep", "--timeout-ms", "1000")
    done = mock(port, *words)
    assert done.returncode == 1
    events = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("[event]")]
    assert events[-2:] == ["metrics.job", "request.failed"]


def test_no_result_in_time(worker: WorkerProcess, port: int) -> None:
    done = mock(port, "--run", "sleep", "--result-wait-s", "0.3", "--timeout-ms", "2000")
    assert (done.returncode, done.stderr) == (3, "mock_orchestrator: no result within 0.3 s\n")


def test_refs_become_urls(worker: WorkerProcess, port: int) -> None:
    payload = '{"text": "marco", "refs": [{"ref": "a"}, {"ref": "b", "x": "a"}]}'
    words = ("--run", "marco-polo", "--payload-json", payload)
    done = mock(port, *words, "--input-ref-url", "a=https://example.com/a")
    assert json.loads(section(done.stdout, "output"))["refs"] == [
        {"ref": "https://example.com/a"},
        {"ref": "b", "x": "a"},
    ]


def test_no_worker_in_time() -> None:
    done = mock(0, "--run", "anything", "--wait-s", "0.2")
    assert done.returncode == 2
    assert done.stderr.startswith("mock_orchestrator: no worker connected to 127.0.0.1:")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--run", "x", "--payload-json", "[1]"),
        ("--run", "x", "--input-ref-url", "nothing"),
        ("--run", "x", "--no-such-flag"),
        ("--run", "x", "--listen", "nowhere"),
        ("--run", "x", "--serve-files-listen", "127.0.0.1:99999"),
        ("--run", "x", "--required-model", "no ref"),
        ("--run", "x", "--required-model", "hf:acme/sd15"),
    ],
)
def test_a_wrong_command_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        mock_orchestrator.main(words)
    assert ended.value.code == mock_orchestrator.USAGE
    assert "mock_orchestrator" in capsys.readouterr().err


def test_files_are_read_from_a_folder_and_land_in_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "hello.txt").write_text("hello")
    content, ref = b"an output" * 1000, "jobs/r1/outputs/out.bin"

    def ask(url: str, method: str, body: bytes = b"") -> tuple[bytes, dict[str, str]]:
        request = Request(url, data=body or None, method=method)
        with urlopen(request, timeout=60) as answer:
            return answer.read(), {name.lower(): text for name, text in answer.headers.items()}

    def session(base: str) -> None:
        data, headers = ask(f"{base}/api/v1/file/in/hello.txt", "GET")
        assert data == b"hello"
        assert headers["x-cozy-sha256"] == hashlib.sha256(b"hello").hexdigest()
        about = {
            "request_id": "r1",
            "ref": ref,
            "blake3": blake3(content).hexdigest(),
            "size_bytes": len(content),
        }
        created = json.loads(
            ask(f"{base}/api/v1/media/me/uploads", "POST", json.dumps(about).encode())[0]
        )
        etags = []
        for number, url in enumerate(created["part_urls"], start=1):
            tag = ask(url, "PUT", content)[1]["etag"]
            etags.append({"part_number": number, "etag": tag})
        complete = f"{base}/api/v1/media/me/uploads/{created['upload_id']}/complete"
        ask(complete, "POST", json.dumps({"parts": etags}).encode())
        assert ask(f"{base}/api/v1/file/{ref}", "GET")[0] == content

    async def serve() -> None:
        import asyncio

        async with FileApi(str(tmp_path), "127.0.0.1:0") as files:
            base = files.url_for("ipv4:127.0.0.1:1")
            await asyncio.to_thread(session, base)

    run(serve())
    assert (tmp_path / ref).read_bytes() == content


def test_models_are_given_to_slots_or_wanted_beforehand() -> None:
    parser = mock_orchestrator._parser()
    models = ("pipe=acme/sd15:v2#fp16", "a/b", "encoder=hf:acme/Text")
    words = ["--run", "x", *(word for model in models for word in ("--required-model", model))]
    options = parser.parse_args(words)
    assert mock_orchestrator._required_refs(options) == ("a/b:prod",)
    (slot, ref), _, (other_slot, other_ref) = options.required_model
    other = mock_orchestrator._resolved(other_slot, other_ref)
    assert (other.slot_name, other.ref, other.provider) == ("encoder", "acme/Text", "hf")
    resolved = mock_orchestrator._resolved(slot, ref)
    assert (resolved.slot_name, resolved.ref, resolved.tag, resolved.flavor) == (
        "pipe",
        "acme/sd15",
        "v2",
        "fp16",
    )
