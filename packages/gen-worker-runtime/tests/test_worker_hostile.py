"""What an orchestrator or a caller sends on purpose: typed refusals, and the worker serves on."""

import asyncio
import gzip
import logging
import random
import socket
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest

from gen_worker import AssetLimits, RequestContext, inference_function
from gen_worker.errors import ArtifactTransferError
from gen_worker.runtime.wire import (
    MAX_OUTPUT_BYTES,
    MAX_RECEIVE_BYTES,
    DisabledFunction,
    DownloadModel,
    EndpointConfig,
    InterruptJob,
    JobRequest,
    JobResult,
    LoadModel,
    LoadModelResult,
    MalformedMessageError,
    Registration,
    ResolvedCompute,
    ResolvedLora,
    ResolvedModel,
    ResolvedRepo,
    ResolvedRepoFile,
    TokenDelta,
    UnloadModel,
    UnloadModelResult,
    decode,
    encode,
)
from gen_worker.runtime.worker.worker import Worker
from gen_worker.testing.orchestrator import Orchestrator, WorkerSession
from gen_worker.testing.workers import working
from gen_worker.types import Asset, ImageAsset

METADATA = "http://169.254.169.254/latest/meta-data/"


class Text(msgspec.Struct):
    text: str = ""
    count: int = 0


class Sound(msgspec.Struct):
    audio_chunk: bytes = b""


class Files(msgspec.Struct):
    file: Annotated[Asset, AssetLimits(max_bytes=100_000)] | None = None
    image: Annotated[ImageAsset, AssetLimits(max_pixels=10_000)] | None = None


class Output(msgspec.Struct):
    ref: str = ""


GATE = threading.Event()
"""What `gated` waits for."""


@inference_function
async def echo(ctx: RequestContext, payload: Text) -> Text:
    return payload


@inference_function
def spell(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    for letter in payload.text[:100]:
        yield Text(text=letter)


@inference_function
def gated(ctx: RequestContext, payload: Text) -> Text:
    GATE.wait(30)
    return payload


@inference_function
async def lengthen(ctx: RequestContext, payload: Text) -> Text:
    return Text(text="x" * payload.count)


@inference_function
def shout(ctx: RequestContext, payload: Text) -> Iterator[Sound]:
    yield Sound(audio_chunk=b"a")
    yield Sound(audio_chunk=bytes(payload.count))


@inference_function
def read(ctx: RequestContext, payload: Files) -> Text:
    found = payload.file or payload.image
    if found is None or found.local_path is None:
        return Text(text="no file")
    return Text(text=found.read_bytes().decode("latin-1"), count=1)


@inference_function
def save(ctx: RequestContext, payload: Output) -> Text:
    return Text(text=ctx.save_bytes(payload.ref, b"mine").ref)


FUNCTIONS = [echo, spell, gated, lengthen, shout, read, save]


class Place(NamedTuple):
    orchestrator: Orchestrator
    session: WorkerSession
    worker: Worker

    async def check_serves(self, *, connections: int = 1) -> None:
        """Check that a job is served as ever, and that nothing of those before it is left."""
        job = self.session.submit("echo", {"text": "still here"})
        assert (await job.output(timeout_s=30))["text"] == "still here"
        async with asyncio.timeout(30):
            while self.worker.jobs.active:  # it may have overtaken those that run in a thread
                await asyncio.sleep(0.01)
        assert len(self.session.registrations) == connections

    async def answer(self, request: JobRequest) -> JobResult:
        """Send a request as it is, and return its one result."""
        self.session.send(request)

        def found() -> list[JobResult]:
            return [one for one in self.session.heard(JobResult) if one.request_id == key]

        key = request.request_id
        (result,) = await self.orchestrator.until(found, timeout_s=30)
        return result


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    async with (
        Orchestrator() as orchestrator,
        working(FUNCTIONS, orchestrator.address) as worker,
    ):
        session = await orchestrator.connected()
        await orchestrator.until(lambda: len(session.streams) == 3)
        yield Place(orchestrator, session, worker)


@pytest.fixture(autouse=True)
def job_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKER_JOB_DIR", str(tmp_path / "jobs"))
    monkeypatch.setenv("WORKER_DOWNLOAD_RETRIES", "1")
    return tmp_path / "jobs"


# ---- frames


UNKNOWN = b"\xc2\x0c\x02hi"
"""A field whose number, 200, this protocol does not have."""
FRAMES = [
    b"",
    b"\x00",
    b"\xff" * 100,
    b"\x0a\xff\xff\xff\xff\x0f",  # a registration of 4 GiB
    UNKNOWN,
    UNKNOWN + encode(JobResult(request_id="r", success=True)),  # what only workers say
    encode(Registration()),
    encode(TokenDelta(request_id="r", delta_text="a", sequence=1)),
    encode(JobRequest(request_id="r", function="echo"))[:-3],
    encode(JobRequest(request_id="r", function="echo")).replace(b"echo", b"\xff\xfe\xfd\xfc"),
]


async def test_frames_that_mean_nothing_are_passed_over() -> None:
    async with place() as here:
        for frame in FRAMES:
            here.session.send(frame)
        await here.check_serves()
        assert len(here.session.heard(JobResult)) == 1


async def test_an_empty_frame_is_a_sign_of_life_and_not_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A scheduler sends one to each idle worker, again and again."""
    caplog.set_level(logging.INFO, "gen_worker.worker")
    async with place() as here:
        here.session.send(b"")
        await here.check_serves()
        assert "not understood" not in caplog.text
        here.session.send(UNKNOWN)
        await here.check_serves()
        assert caplog.text.count("not understood") == 1


async def test_a_frame_that_is_too_long_costs_its_connection_and_no_job() -> None:
    GATE.clear()
    async with place() as here:
        job = here.session.submit("gated", {"text": "kept"})
        await here.session.submit("echo").output(timeout_s=30)
        here.session.send(bytes(MAX_RECEIVE_BYTES + 1))
        await here.orchestrator.until(lambda: len(here.session.registrations) > 1, timeout_s=30)
        GATE.set()
        assert (await job.output(timeout_s=30))["text"] == "kept"
        assert job.attempts == 1
        await here.check_serves(connections=2)


@pytest.mark.parametrize("function", ["lengthen", "shout"])
async def test_what_no_message_has_room_for_fails_its_own_request(function: str) -> None:
    async with place() as here:
        job = here.session.submit(function, {"count": MAX_OUTPUT_BYTES + 1})
        result = await job.result(timeout_s=30)
        assert (result.success, result.error_type) == (False, "validation")
        assert "bytes, at most" in result.safe_message
        await here.check_serves()


PAYLOADS = [
    b"",
    b"\xc1",
    b"\xc0",
    b"\x05",
    b"\xa3abc",
    b"\x80\x80",
    b"\x81",
    b"\x81\xa4text",
    b"\x81\xa4text\xc1",
    b"\x81\xa4text\xa2\xff\xff",
    b"\x81\xa4text\xc4\x01a",
    b"\x81\x01\x02",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\x91" * 100_000,
    b"\x81\xa1a" * 100_000,
    b"\xc9\xff\xff\xff\xff\x01",
]


async def test_payloads_that_are_no_messagepack_of_the_function_s_are_refused() -> None:
    async with place() as here:
        for number, payload in enumerate(PAYLOADS):
            request = JobRequest(request_id=f"r{number}", function="echo", payload=payload)
            result = await here.answer(request)
            assert (result.success, result.error_type) == (False, "validation"), payload[:20]
            assert not result.retryable
        await here.check_serves()


TEXTS = ["", "a", "../../etc/passwd", "a\x00b", "\n\r", "\U0010ffff", METADATA, "x" * 5_000, "*"]
NUMBERS = [0, 1, -1, 2**31 - 1, -(2**31)]


def odd_request(choice: random.Random, request_id: str) -> JobRequest:
    """Return a request of which anything may be wrong but its id."""

    def text() -> str:
        return choice.choice(TEXTS)

    def number() -> int:
        return choice.choice(NUMBERS)

    def model() -> ResolvedModel:
        lora = ResolvedLora(ref=text(), tag=text(), weight=choice.choice([0.0, -1.0, float("nan")]))
        return ResolvedModel(ref=text(), tag=text(), provider=text(), loras=(lora,))

    def repo() -> ResolvedRepo:
        file = ResolvedRepoFile(path=text(), size_bytes=number(), blake3=text(), url=text())
        return ResolvedRepo(snapshot_digest=text(), files=(file,))

    fields: dict[str, Any] = {
        "function": lambda: choice.choice(["echo", "spell", "ECHO", *TEXTS]),
        "payload": lambda: choice.choice([*PAYLOADS, msgspec.msgpack.encode({"text": "abc"})]),
        "timeout_ms": lambda: choice.choice([60_000, 2**62, 0, -5]),
        "owner": text,
        "invoker_id": text,
        "file_base_url": text,
        "repos": lambda: {text(): repo()},
        "job_id": text,
        "capability_token": text,
        "compute": lambda: ResolvedCompute(
            accelerator=text(), gpu_index=number(), vram_gb=number()
        ),
        "hints": lambda: {text(): text(), "output_format": text(), "destination_repo": text()},
        "models": lambda: {text(): model()},
    }
    chosen = choice.sample([*fields], choice.randint(0, len(fields)))
    given = {"function": "echo", "payload": b"\x80"} | {name: fields[name]() for name in chosen}
    return JobRequest(request_id=request_id, **given)


@pytest.mark.chaos
async def test_whatever_a_request_says_it_has_one_answer(seed: int) -> None:
    choice = random.Random(seed)
    async with place() as here:
        requests = [odd_request(choice, f"{text}{n}") for n, text in enumerate(TEXTS * 12)]
        for request in requests:
            here.session.send(request)
        await here.orchestrator.until(
            lambda: len(here.session.heard(JobResult)) >= len(requests), timeout_s=60
        )
        await here.check_serves()
        answered = [one.request_id for one in here.session.heard(JobResult)]
        assert sorted(answered[:-1]) == sorted(one.request_id for one in requests)


@pytest.mark.chaos
async def test_whatever_a_frame_says_the_connection_lives(seed: int) -> None:
    """Frames that were right before somebody changed some of their bytes."""
    choice = random.Random(seed)
    async with place() as here:
        ids: set[str] = set()
        for number in range(300):
            frame = bytearray(encode(odd_command(choice, number)))
            for _ in range(choice.randint(0, 4)):
                if frame:
                    frame[choice.randrange(len(frame))] = choice.randrange(256)
            if not is_for_the_end(frame, ids):
                here.session.send(bytes(frame))
        await here.check_serves()
        await here.orchestrator.until(
            lambda: {one.request_id for one in here.session.heard(JobResult)} > ids, timeout_s=30
        )


def is_for_the_end(frame: bytes | bytearray, ids: set[str]) -> bool:
    """Tell whether a frame asks the worker to end; note the request if it is one."""
    try:
        message = decode(bytes(frame))
    except MalformedMessageError:
        return False
    if isinstance(message, JobRequest):
        ids.add(message.request_id)
    return type(message).__name__ == "Drain"


def odd_command(choice: random.Random, number: int) -> Any:
    def text() -> str:
        return choice.choice(TEXTS)

    disabled = DisabledFunction(function=text(), reason=text(), ref=text())
    return choice.choice(
        [
            odd_request(choice, f"r{number}"),
            InterruptJob(request_id=text(), item_ids=(text(),)),
            LoadModel(model_id=text()),
            UnloadModel(model_id=text()),
            DownloadModel(model_id=text(), ref=text(), priority=-1),
            EndpointConfig(
                supported_refs=(text(),),
                ref_by_key={text(): text()},
                models_by_function={text(): {text(): text()}},
                disabled_functions=(disabled,),
                repos={text(): ResolvedRepo(files=(ResolvedRepoFile(path=text(), url=text()),))},
            ),
        ]
    )


async def test_commands_about_models_that_cannot_be_are_answered() -> None:
    async with place() as here:
        for text in TEXTS:
            here.session.send(LoadModel(model_id=text))
            here.session.send(UnloadModel(model_id=text))
            here.session.send(DownloadModel(model_id=text, ref=text))
        await here.orchestrator.until(
            lambda: (
                len(here.session.heard(LoadModelResult)) == 2 * len(TEXTS)
                and len(here.session.heard(UnloadModelResult)) == len(TEXTS)
            ),
            timeout_s=60,
        )
        assert not any(one.success for one in here.session.heard(LoadModelResult))
        await here.check_serves()


# ---- files


class Web:
    """A web server of this machine, with pages that a test makes."""

    def __init__(self) -> None:
        web = self
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                status, headers, body = web.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True  # whoever asked has had enough

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def page(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[path] = (status, named, body)
        return self.origin + path

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server that the operator trusts although its address is private."""
    web = Web()
    monkeypatch.setenv("WORKER_TRUSTED_URLS", web.origin)
    yield web
    web.close()


@pytest.fixture
def secret() -> Iterator[Web]:
    """A server that nobody may be led to."""
    web = Web()
    web.page("/secret", b"secret")
    yield web
    assert web.asked == []
    web.close()


async def check_refused(here: Place, payload: dict[str, Any], error_type: str, said: str) -> None:
    result = await here.session.submit("read", payload).result(timeout_s=30)
    assert (result.success, result.error_type) == (False, error_type), (payload, result)
    assert said in result.safe_message, (payload, result.safe_message)


URLS = [
    "http://127.0.0.1:{port}/secret",
    "http://localhost:{port}/secret",
    "http://127.1:{port}/secret",
    "http://2130706433:{port}/secret",
    "http://0.0.0.0:{port}/secret",
    "http://[::1]:{port}/secret",
    "http://[::ffff:127.0.0.1]:{port}/secret",
    "http://[64:ff9b::7f00:1]:{port}/secret",
    METADATA,
    "http://[::ffff:a9fe:a9fe]/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://10.0.0.1/x",
    "http://172.16.0.1/x",
    "http://192.168.1.1/x",
    "http://100.64.0.1/x",
    "http://[fe80::1]/x",
    "http://[fd00::1]/x",
    "http://user:password@127.0.0.1:{port}/secret",
    "http://example.com\\@127.0.0.1:{port}/secret",
    "ftp://127.0.0.1/x",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/secret",
]


async def test_no_url_of_a_caller_leads_inside(secret: Web) -> None:
    port = secret.origin.rpartition(":")[2]
    async with place() as here:
        for url in URLS:
            await check_refused(
                here, {"file": {"ref": url.format(port=port)}}, "validation", "refused"
            )
        await here.check_serves()


async def test_no_redirect_leads_further_than_a_url(web: Web, secret: Web) -> None:
    async with place() as here:
        for target in (f"{secret.origin}/secret", METADATA, "file:///etc/passwd"):
            url = web.page("/go", b"", 302, Location=target)
            await check_refused(here, {"file": {"ref": url}}, "validation", "refused")
        loop = web.page("/loop", b"", 307, Location="/loop")
        await check_refused(here, {"file": {"ref": loop}}, "validation", "redirects")
        await here.check_serves()


async def test_a_name_that_means_another_address_the_second_time_gains_nothing(
    secret: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = iter(["93.184.216.34", "127.0.0.1"])
    dialed: list[Any] = []

    def lookup(host: str, port: int, **_options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(addresses), port))]

    def dial(addresses: Any, *_arguments: Any, **_options: Any) -> Any:
        dialed.extend(addresses)
        raise ArtifactTransferError("nobody there", phase="network")

    async with place() as here:
        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        monkeypatch.setattr("gen_worker.models.net.opener.dial", dial)
        url = f"http://rebinding.example:{secret.origin.rpartition(':')[2]}/secret"
        await check_refused(here, {"file": {"ref": url}}, "artifact_transfer", "")
        assert dialed == ["93.184.216.34"]
        await check_refused(here, {"file": {"ref": url}}, "validation", "no public address")
        await here.check_serves()


def png(width: int, height: int) -> bytes:
    """Return an image that says how large it is and is nothing else."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + checksum


async def test_bombs_are_refused_before_they_go_off(web: Web) -> None:
    bomb = web.page("/bomb", gzip.compress(bytes(5_000_000)), Content_Encoding="gzip")
    twice = web.page(
        "/twice", gzip.compress(gzip.compress(bytes(5_000_000))), Content_Encoding="gzip, gzip"
    )
    image = web.page("/huge.png", png(100_000, 100_000))
    async with place() as here:
        await check_refused(here, {"file": {"ref": bomb}}, "validation", "100000")
        await check_refused(here, {"file": {"ref": twice}}, "validation", "")
        await check_refused(here, {"image": {"ref": image}}, "validation", "pixels")
        inline = {"ref": "x.png", "inline_bytes": png(100_000, 100_000)}
        await check_refused(here, {"image": inline}, "validation", "pixels")
        await here.check_serves()


async def test_a_caller_s_local_path_is_believed_nowhere(job_dir: Path) -> None:
    secret = job_dir.parent / "secret.txt"
    secret.write_text("secret")
    async with place() as here:
        believed = here.session.submit("read", {"file": {"ref": "", "local_path": str(secret)}})
        assert (await believed.output(timeout_s=30))["text"] == "no file"
        for file in (
            {"ref": str(secret)},
            {"ref": f"file://{secret}"},
            {"ref": "secret.txt", "local_path": str(secret)},
        ):
            result = await here.session.submit("read", {"file": file}).result(timeout_s=30)
            assert not result.success
            assert result.error_type in ("validation", "auth"), (file, result)
        await here.check_serves()


async def test_no_output_leaves_the_directory_of_its_request(job_dir: Path) -> None:
    before = {path for path in job_dir.parent.rglob("*") if job_dir not in path.parents}
    refs = ["", "../x", "a/../../x", "/etc/x", "..", ".", "~/x", "a\x00b", "a/../../../jobs/x"]
    refs += ["..\\x", "C:\\x", "%2e%2e/%2e%2e/x", "jobs/another/outputs/x", "x" * 5_000, METADATA]
    async with place() as here:
        for number, ref in enumerate(refs):
            job = here.session.submit(
                "save", {"ref": ref}, request_id=f"r{number}", hints={"output_format": "inline"}
            )
            result = await job.result(timeout_s=30)
            if result.success:
                text = msgspec.msgpack.decode(result.payload)["text"]
                assert text.startswith(f"jobs/r{number}/outputs/"), (ref, text)
                assert ".." not in text.split("/"), (ref, text)
            else:
                assert result.error_type == "validation", (ref, result)
        await here.check_serves()
    after = {path for path in job_dir.parent.rglob("*") if job_dir not in path.parents}
    assert after - {job_dir} == before - {job_dir}
