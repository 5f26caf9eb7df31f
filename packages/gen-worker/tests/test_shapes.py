"""One pipeline: every feature holds for every shape in which a function can be written.

`SHAPES` is one table and the tests are the other. Every handler does the same, told by its payload,
so that a test says once what must be true of all of them, called on an event loop and without one.
"""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest

from gen_worker import (
    Asset,
    Case,
    Clamp,
    ConversionContext,
    ModelRef,
    ModelRefSource,
    Repo,
    RequestContext,
    Resources,
    RetryableError,
    batched_inference,
    conversion,
    inference,
    inference_function,
    invocable,
    testing,
    worker_function,
)
from gen_worker.cancel import CancelToken
from gen_worker.conversion import ProducedFlavor, training_function
from gen_worker.events import Emitted, Event, Failed, Log, Progress, Result, Started
from gen_worker.runtime import Invocation
from gen_worker.spec import FunctionSpec, specs_of
from gen_worker.testing import EndpointTester, TesterResult

PATIENCE_S = 60.0
"""Real seconds a test waits for what must happen; reaching it is a failure."""
LIMIT_MS = 60_000
"""Declared by every function."""


class Inner(msgspec.Struct):
    steps: Annotated[int, Clamp(1, 50)] = 10
    file: Asset | None = None


class Task(msgspec.Struct):
    action: str = "echo"
    steps: Annotated[int, Clamp(1, 50)] = 10
    inner: Inner = msgspec.field(default_factory=Inner)
    many: list[Inner] = []
    table: dict[str, Inner] = {}
    file: Asset | None = None


class Done(msgspec.Struct):
    """What a handler saw."""

    steps: list[int]
    files: list[str] = []
    paths: list[str] = []
    model: str = ""
    ref: str = ""
    timeout_ms: int | None = None
    output: Asset | None = None
    outputs: list[Asset] = []


class OutOfMemoryError(Exception):
    """Named like that of torch, by which it is known."""


class Probe:
    """What the handlers of one test are up to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hanging = threading.Event()
        self.cleaned_up = threading.Event()
        self.calls = 0

    def write(self, name: str) -> str:
        path = self.folder / name
        path.write_bytes(f"made as {name}".encode())
        return str(path)


probe: Probe


def act(ctx: RequestContext, task: Task, model: Any) -> Any:
    """Do what every handler does, apart from waiting."""
    probe.calls += 1
    inners = [task.inner, *task.many, *task.table.values()]
    given = [one for one in (task.file, *(inner.file for inner in inners)) if one is not None]
    done = Done(
        steps=[task.steps, *(inner.steps for inner in inners)],
        files=[Path(os.fspath(one)).read_text() for one in given],
        paths=[os.fspath(one) for one in given],
        model=str(model),
        ref=str(ctx.models.get("engine", {}).get("ref")),
        timeout_ms=ctx.timeout_ms,
    )
    match task.action:
        case "wrong":
            return "no struct"
        case "invalid":
            raise ValueError("steps do not fit")
        case "broken":
            raise RuntimeError("secret of /etc/passwd")
        case "retry":
            raise RetryableError("later")
        case "oom" if probe.calls < 3:
            raise OutOfMemoryError("no memory left")
        case "work":
            time.sleep(0.02)
        case "report":
            ctx.progress(0.5, stage="half")
            ctx.log("line")
            ctx.emit("my.event", {"n": 1})
            ctx.progress(1.0)
        case "file":
            done.output = Asset(ref="made/a.txt", local_path=probe.write("a.txt"))
            done.outputs = [Asset(ref="", local_path=probe.write("b.txt"))]
    return done


def hang(task: Task) -> None:
    """Never end by itself, and never look at the context."""
    if task.action == "hang":
        probe.hanging.set()
        try:
            while True:
                time.sleep(0.001)
        finally:
            probe.cleaned_up.set()


async def hang_async(task: Task) -> None:
    if task.action == "hang":
        probe.hanging.set()
        try:
            await asyncio.sleep(3600)
        finally:
            probe.cleaned_up.set()


OPEN = Repo("engine_slot", "acme/base").allow_override("acme.Engine")
MODELS = {"engine": OPEN, "locked": Repo("acme/locked")}
limited_function = inference_function(models=MODELS, timeout_ms=LIMIT_MS)
limited_method = invocable(timeout_ms=LIMIT_MS)


@limited_function
def sync(ctx: RequestContext, task: Task, engine: Any, locked: Any) -> Done:
    hang(task)
    return act(ctx, task, engine)  # type: ignore[no-any-return]


@limited_function
async def awaited(ctx: RequestContext, task: Task, engine: Any, locked: Any) -> Done:
    await hang_async(task)
    return act(ctx, task, engine)  # type: ignore[no-any-return]


@limited_function
def generated(ctx: RequestContext, task: Task, engine: Any, locked: Any) -> Iterator[Done]:
    hang(task)
    yield act(ctx, task, engine)


@limited_function
async def async_generated(
    ctx: RequestContext, task: Task, engine: Any, locked: Any
) -> AsyncIterator[Done]:
    await hang_async(task)
    yield act(ctx, task, engine)


@limited_function
def unannotated(ctx, engine, task: Task, locked) -> Done:  # type: ignore[no-untyped-def]
    hang(task)
    return act(ctx, task, engine)  # type: ignore[no-any-return]


@limited_function
def returned_iterator(ctx: RequestContext, task: Task, engine: Any, locked: Any) -> Iterator[Done]:
    hang(task)
    return iter([act(ctx, task, engine)])


@inference_function(
    models=MODELS, timeout_ms=LIMIT_MS, resources=Resources(requires_gpu=True, min_vram_gb=1)
)
def on_gpu(ctx: RequestContext, task: Task, engine: Any, locked: Any) -> Done:
    hang(task)
    return act(ctx, task, engine)  # type: ignore[no-any-return]


@inference_function(models=MODELS, timeout_ms=LIMIT_MS, concurrency="sequential")
def one_by_one(ctx: RequestContext, task: Task, engine: Any, locked: Any) -> Done:
    hang(task)
    return act(ctx, task, engine)  # type: ignore[no-any-return]


Fixed = Annotated[str, ModelRef(ModelRefSource.FIXED, "main")]


@worker_function(timeout_ms=LIMIT_MS)
def older(ctx: RequestContext, engine: Fixed, task: Task) -> Done:
    hang(task)
    return act(ctx, task, engine)  # type: ignore[no-any-return]


@worker_function(timeout_ms=LIMIT_MS)
def older_generated(ctx: RequestContext, engine: Fixed, task: Task) -> Iterator[Done]:
    hang(task)
    yield act(ctx, task, engine)


@inference(models=MODELS)
class Methods:
    def setup(self, engine: Any, locked: Any) -> None:
        self.engine = engine

    @limited_method
    def method(self, ctx: RequestContext, task: Task) -> Done:
        hang(task)
        return act(ctx, task, self.engine)  # type: ignore[no-any-return]

    @limited_method
    async def awaited_method(self, ctx: RequestContext, task: Task) -> Done:
        await hang_async(task)
        return act(ctx, task, self.engine)  # type: ignore[no-any-return]

    @limited_method
    def generated_method(self, ctx: RequestContext, task: Task) -> Iterator[Done]:
        hang(task)
        yield act(ctx, task, self.engine)

    @limited_method
    async def async_generated_method(self, ctx: RequestContext, task: Task) -> AsyncIterator[Done]:
        await hang_async(task)
        yield act(ctx, task, self.engine)


@inference(
    models={"engine": Repo("acme/other")}, parametrize=[Case("first"), Case("row", model=OPEN)]
)
class Rows:
    def setup(self, engine: Any) -> None:
        self.engine = engine

    @limited_method
    def row(self, ctx: RequestContext, task: Task) -> Done:
        hang(task)
        return act(ctx, task, self.engine)  # type: ignore[no-any-return]


@inference(models=MODELS, batch_window_ms=5, max_batch=4)
class Batches:
    def setup(self, engine: Any, locked: Any) -> None:
        self.engine = engine

    @limited_method
    def batched(self, ctx: list[RequestContext], task: list[Task]) -> list[Done]:
        for one in task:
            hang(one)
        return [act(c, t, self.engine) for c, t in zip(ctx, task, strict=True)]


@batched_inference(models=MODELS)
class Chat:
    async def setup(self, engine: Any, locked: Any) -> None:
        self.engine = engine

    @batched_inference.function(timeout_ms=LIMIT_MS)
    async def chatted(self, ctx: RequestContext, task: Task) -> AsyncIterator[Done]:
        await hang_async(task)
        yield act(ctx, task, self.engine)


def flavor(ctx: ConversionContext, task: Task, model: Any) -> Any:
    """Say what a handler saw in the attributes of what it produced."""
    done = act(ctx, task, model)
    if not isinstance(done, Done):
        return done
    path = done.output or Asset(ref="", local_path=probe.write("weights.safetensors"))
    seen = msgspec.to_builtins(msgspec.structs.replace(done, output=None, outputs=[]))
    return ProducedFlavor(os.fspath(path), flavor="one", attributes=seen)


@conversion(models=MODELS)
class Converter:
    def setup(self, engine: Any, locked: Any) -> None:
        self.engine = engine

    @limited_method
    def converted(self, ctx: ConversionContext, task: Task) -> Iterator[ProducedFlavor]:
        hang(task)
        yield flavor(ctx, task, self.engine)

    @limited_method
    def listed(self, ctx: ConversionContext, task: Task) -> list[ProducedFlavor]:
        hang(task)
        produced = flavor(ctx, task, self.engine)
        wrong: list[ProducedFlavor] = produced
        return [produced] if isinstance(produced, ProducedFlavor) else wrong


@training_function(kind="dataset-generation", timeout_ms=LIMIT_MS)
def job(
    ctx: ConversionContext,
    action: str = "echo",
    steps: Annotated[int, Clamp(1, 50)] = 10,
    inner: Inner = Inner(),  # noqa: B008
    many: list[Inner] = [],  # noqa: B006
    table: dict[str, Inner] = {},  # noqa: B006
    file: Asset | None = None,
) -> list[ProducedFlavor]:
    task = Task(action, steps, inner, many, table, file)
    hang(task)
    produced = flavor(ctx, task, "base")
    if not isinstance(produced, ProducedFlavor):
        return produced  # type: ignore[no-any-return]
    folder = ctx.mktemp()
    (folder / "dataset_info.json").write_text("{}")
    Path(os.fspath(produced.path)).rename(folder / Path(produced.path).name)
    return [msgspec.structs.replace(produced, path=folder)]


NOT_ALLOWED, UNKNOWN = "model_override_not_allowed", "unknown_override_param"


class Shape(NamedTuple):
    spec: FunctionSpec
    refused: dict[str, str]
    """Overrides that are refused, each with its code."""
    is_open: bool
    """Whether a caller may replace `engine`."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_stream(self) -> bool:
        return self.spec.is_streamed and self.spec.kind == "inference"

    @property
    def is_job(self) -> bool:
        return self.spec.kind != "inference"


def shapes(*targets: Any, refused: dict[str, str], is_open: bool = True) -> list[Shape]:
    return [Shape(spec, refused, is_open) for target in targets for spec in specs_of(target)]


BOTH = {"locked": NOT_ALLOWED, "nobody": UNKNOWN}
FUNCTIONS = (sync, awaited, generated, async_generated, unannotated, returned_iterator)
SHAPES = [
    *shapes(*FUNCTIONS, on_gpu, one_by_one, refused=BOTH),
    *shapes(Methods, Batches, Chat, refused=BOTH),
    *shapes(older, older_generated, refused={"engine": NOT_ALLOWED}, is_open=False),
    *(one for one in shapes(Rows, refused={"nobody": UNKNOWN}) if one.name == "row"),
    *shapes(Converter, refused=BOTH),
    *shapes(job, refused={"engine": UNKNOWN}, is_open=False),
]


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.name)
def shape(request: pytest.FixtureRequest) -> Shape:
    found: Shape = request.param
    return found


class Runner(NamedTuple):
    """A tester, and whether its calls run on an event loop or in a thread without one."""

    tester: EndpointTester
    is_inline: bool
    threads: list[threading.Thread]

    def start(self, shape: Shape, **fields: Any) -> testing.TesterCall:
        timeout_ms = fields.pop("timeout_ms", None)
        if not self.is_inline:
            return self.tester.start(shape.name, fields, timeout_ms=timeout_ms)
        invocation = Invocation(
            function=shape.name,
            payload=fields,
            payload_format="object",
            request_id="inline-1",
            timeout_ms=timeout_ms,
        )
        call = testing.TesterCall(invocation.request_id, CancelToken(), self.tester.events)
        self.run_inline(invocation, call, call.token)
        return call

    def run_inline(self, invocation: Invocation, sink: Any, token: CancelToken) -> None:
        """Run a call in a thread that has no event loop."""
        run = self.tester.engine.run
        thread = threading.Thread(target=run, args=(invocation, sink), kwargs={"token": token})
        self.threads.append(thread)
        thread.start()

    def run(self, shape: Shape, **fields: Any) -> TesterResult:
        """Run to the end; meanwhile the time passes that a batch forms in."""
        call = self.start(shape, **fields)
        self.wait_for(lambda timeout_s: call.is_done or has_ended(call, timeout_s))
        return call.wait()

    def wait_for(self, happens: Callable[[float], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not happens(0.01):
            assert time.monotonic() < end, "it never happened"
            self.tester.clock.advance(0.001)

    def hang(self, shape: Shape, **fields: Any) -> testing.TesterCall:
        """Start a call that has to be stopped, and wait until its handler runs."""
        call = self.start(shape, action="hang", **fields)
        self.wait_for(probe.hanging.wait)
        return call

    def fails(self, shape: Shape, **fields: Any) -> Any:
        failure = self.run(shape, **fields).failure
        assert failure is not None
        return failure

    def sees(self, shape: Shape, **fields: Any) -> Done:
        """Run to the end and return what the handler saw, read back from what it produced."""
        result = self.run(shape, **fields)
        assert result.failure is None, result.failure
        if shape.is_job:
            (produced,) = result.value["flavors"]
            return msgspec.convert(produced["attributes"], Done)
        if shape.is_stream:
            assert result.value == {"yielded": 1}
            (result_item,) = result.deltas
        else:
            assert result.deltas == []
            result_item = result.value
        assert isinstance(result_item, Done)
        return result_item


def has_ended(call: testing.TesterCall, timeout_s: float) -> bool:
    try:
        call.wait(timeout_s)
    except TimeoutError:
        return False
    return True


OBJECTS = {"engine": "base", "locked": "locked", "acme/mine": "mine"}


@pytest.fixture(params=["loop", "inline"])
def runner(request: pytest.FixtureRequest, shape: Shape, tmp_path: Path) -> Iterator[Runner]:
    global probe
    probe = Probe(tmp_path)
    with EndpointTester([shape.spec], models=OBJECTS) as tester:
        runner = Runner(tester, request.param == "inline", [])
        yield runner
        for thread in runner.threads:
            thread.join(PATIENCE_S)
        runner.wait_for(lambda timeout_s: holds_nothing(tester))


def holds_nothing(tester: EndpointTester) -> bool:
    """Tell whether all that calls had was given back; that ends just after their outcome."""
    now = tester.statistics()
    return (now.running, now.queued, now.stuck_threads, tester.models.leased) == (0, 0, 0, [])


def test_numbers_are_clamped_wherever_they_are(runner: Runner, shape: Shape) -> None:
    many = {"many": [{"steps": 77}, {"steps": 7}], "table": {"a": {"steps": 0}}}
    seen = runner.sees(shape, steps=999, inner={"steps": -5}, **many)
    assert seen.steps == [50, 1, 50, 7, 1]


def test_files_are_here_before_the_handler_runs_and_nowhere_else(
    runner: Runner, shape: Shape
) -> None:
    refs = [runner.tester.files.add(f"{name}.txt", name.encode()) for name in ("one", "two")]
    stolen = [{"ref": ref, "local_path": "/etc/passwd"} for ref in refs]
    seen = runner.sees(shape, file=stolen[0], many=[{"file": stolen[1]}])
    assert seen.files == ["one", "two"]
    assert "/etc/passwd" not in seen.paths
    assert len(runner.tester.files.released) == 1


def test_a_file_that_cannot_be_fetched_fails_the_call_before_the_handler(
    runner: Runner, shape: Shape
) -> None:
    ref = runner.tester.files.add("one.txt", b"one")
    runner.tester.fail("files.materialize", RetryableError("no network"))
    failure = runner.fails(shape, file={"ref": ref})
    assert (failure.error_type, failure.retryable, probe.calls) == ("retryable", True, 0)


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"steps": "many"}, "$.steps"),
        ({"inner": {"steps": None}}, "$.inner.steps"),
        ({"many": [{}, {"steps": []}]}, "$.many[1].steps"),
    ],
)
def test_a_wrong_payload_is_refused_with_its_place(
    runner: Runner, shape: Shape, payload: dict[str, Any], path: str
) -> None:
    result = runner.run(shape, **payload)
    failure = result.failure
    assert failure is not None
    assert (failure.error_type, failure.path, failure.origin) == ("validation", path, "input")
    assert (failure.http_status, failure.exit_code, failure.retryable) == (400, 2, False)
    assert (probe.calls, result.deltas) == (0, [])
    assert not any(isinstance(event, Started) for event in result.events)


def test_a_caller_may_replace_the_models_that_the_author_opened(
    runner: Runner, shape: Shape
) -> None:
    assert runner.sees(shape).model == "base"
    if not shape.is_open:
        return
    seen = runner.sees(shape, _models={"engine": "acme/mine:dev#bf16"})
    assert (seen.model, seen.ref) == ("mine", "acme/mine")
    again = runner.sees(shape)
    assert (again.model, again.ref) == ("base", "acme/base")


def test_every_other_replacement_refuses_the_whole_call(runner: Runner, shape: Shape) -> None:
    for parameter, code in shape.refused.items():
        also = {"engine": "acme/mine"} if shape.is_open else {}
        failure = runner.fails(shape, _models={**also, parameter: "acme/mine"})
        assert (failure.error_type, failure.code) == ("validation", code)
        assert failure.path == f"$._models.{parameter}"
        assert (failure.http_status, failure.exit_code) == (400, 2)
    assert probe.calls == 0


def test_a_call_ends_at_its_deadline(runner: Runner, shape: Shape) -> None:
    call = runner.hang(shape, timeout_ms=5_000)
    runner.tester.clock.advance(5.001)
    failure = call.wait(PATIENCE_S).failure
    assert failure is not None
    assert (failure.error_type, failure.message) == ("canceled", "deadline exceeded")
    assert (failure.http_status, failure.exit_code, failure.retryable) == (504, 1, False)
    assert probe.cleaned_up.wait(PATIENCE_S)


def test_the_limit_that_the_function_declares_holds_without_the_callers(
    runner: Runner, shape: Shape
) -> None:
    assert runner.sees(shape).timeout_ms == LIMIT_MS
    call = runner.hang(shape)
    runner.tester.clock.advance(LIMIT_MS / 1000 + 0.001)
    failure = call.wait(PATIENCE_S).failure
    assert failure is not None
    assert failure.message == "deadline exceeded"


def test_the_shorter_limit_counts_and_the_handler_knows_it(runner: Runner, shape: Shape) -> None:
    assert runner.sees(shape, timeout_ms=5_000).timeout_ms == 5_000
    assert runner.sees(shape, timeout_ms=90_000).timeout_ms == LIMIT_MS


def test_a_cancel_stops_a_handler_that_never_looks(runner: Runner, shape: Shape) -> None:
    call = runner.hang(shape)
    call.cancel()
    failure = call.wait(PATIENCE_S).failure
    assert failure is not None
    assert (failure.error_type, failure.http_status, failure.exit_code) == ("canceled", 499, 130)
    assert probe.cleaned_up.wait(PATIENCE_S)
    runner.wait_for(lambda timeout_s: runner.tester.statistics().canceled == 1)
    assert runner.sees(shape).model == "base", "the function works again afterwards"


def test_files_a_handler_returns_are_stored(runner: Runner, shape: Shape) -> None:
    result = runner.run(shape, action="file")
    assert result.failure is None, result.failure
    files, base = runner.tester.files, f"jobs/{result.request_id}/outputs"
    if shape.is_job:
        stored = [ref for ref in files.refs if ref.endswith("a.txt")]
        assert [files.read(ref) for ref in stored] == [b"made as a.txt"]
        assert stored[0].startswith(base)
        return
    done = result.deltas[0] if shape.is_stream else result.value
    assert (done.output.ref, done.outputs[0].ref) == (
        f"{base}/made/a.txt",
        f"{base}/auto/000000-b.txt",
    )
    assert files.read(done.output.ref) == b"made as a.txt"
    assert files.read(done.outputs[0].ref) == b"made as b.txt"
    assert all(one.sha256 and one.size_bytes for one in (done.output, *done.outputs))


def test_a_file_that_cannot_be_stored_fails_the_call(runner: Runner, shape: Shape) -> None:
    runner.tester.fail("files.save", OSError("disk full"))
    failure = runner.fails(shape, action="file")
    assert (failure.error_type, failure.message) == ("internal", "internal error")
    assert "disk full" in failure.detail


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_what_breaks_before_the_handler_is_no_fault_of_the_caller_and_told_to_the_operator(
    runner: Runner, shape: Shape, error: type[Exception]
) -> None:
    ref = runner.tester.files.add("one.txt", b"one")
    runner.tester.fail("files.materialize", error("a bug in the host"))
    failure = runner.fails(shape, file={"ref": ref})
    assert (failure.error_type, failure.message) == ("internal", "internal error")
    assert (failure.http_status, failure.exit_code) == (500, 1)
    assert failure.exception == error.__name__
    assert "a bug in the host" in failure.detail


def test_a_wrong_result_is_an_error_of_the_author_not_of_the_caller(
    runner: Runner, shape: Shape
) -> None:
    failure = runner.fails(shape, action="wrong")
    assert (failure.error_type, failure.message) == ("internal", "internal error")
    assert (failure.http_status, failure.exit_code) == (500, 1)
    assert failure.exception == "TypeError"
    assert "str" in failure.detail


@pytest.mark.parametrize(
    ("action", "error_type", "message", "status"),
    [
        ("invalid", "validation", "steps do not fit", 400),
        ("broken", "internal", "internal error", 500),
        ("retry", "retryable", "later", 503),
    ],
)
def test_what_a_handler_raises_has_one_meaning(
    runner: Runner, shape: Shape, action: str, error_type: str, message: str, status: int
) -> None:
    failure = runner.fails(shape, action=action)
    assert (failure.error_type, failure.message, failure.http_status) == (
        error_type,
        message,
        status,
    )
    assert (failure.origin, failure.exit_code) == ("handler", 1)
    assert "Traceback" in failure.detail


def test_out_of_memory_takes_the_models_down_and_tries_again(runner: Runner, shape: Shape) -> None:
    models, is_retried = runner.tester.models, not shape.spec.is_streamed and shape.name != "job"
    if (
        not is_retried
    ):  # part of a stream is out already; a job without models has nothing to shrink
        assert runner.fails(shape, action="oom").error_type == "resource"
        return
    result = runner.run(shape, action="oom")
    assert result.failure is None, result.failure
    retries = [event for event in result.events if isinstance(event, Emitted)]
    assert [(e.type, e.payload) for e in retries] == [
        ("inference.oom_retry", {"function_name": shape.name, "attempt": n}) for n in (1, 2)
    ]
    assert (probe.calls, len(models.escalations)) == (3, 2)


def test_the_time_of_a_call_is_accounted_for(runner: Runner, shape: Shape) -> None:
    began = time.perf_counter()
    result = runner.run(shape, action="work")
    took_ms = (time.perf_counter() - began) * 1e3
    times = msgspec.structs.asdict(result.timings)
    assert all(value >= 0 for value in times.values())
    assert times["compute_ms"] >= 20
    assert times["input_ms"] > 0
    assert sum(times.values()) <= took_ms


def test_events_come_in_order(runner: Runner, shape: Shape) -> None:
    result = runner.run(shape, action="report")
    assert result.failure is None, result.failure
    told = [type(event) for event in result.events]
    assert told == [Started, Progress, Log, Emitted, Progress]
    assert {event.request_id for event in result.events} == {result.request_id}
    assert [event.at for event in result.events] == sorted(event.at for event in result.events)


class Transcript:
    """A sink that keeps every batch as it came."""

    wants_events = True

    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self.has_ended = threading.Event()

    def deliver(self, batch: Sequence[Event]) -> None:
        self.batches.append(list(batch))
        if isinstance(batch[-1], (Result, Failed)):
            self.has_ended.set()


@pytest.mark.parametrize("action", ["echo", "broken", "wrong", "report", "hang", "unreadable"])
def test_the_outcome_is_one_and_the_last_thing_delivered(
    runner: Runner, shape: Shape, action: str
) -> None:
    transcript, token, engine = Transcript(), CancelToken(), runner.tester.engine
    payload: dict[str, Any] = {"action": 7 if action == "unreadable" else action}
    invocation = Invocation(
        function=shape.name, payload=payload, payload_format="object", request_id="one"
    )

    async def submit() -> None:
        engine.submit(invocation, transcript, token=token)
        await asyncio.to_thread(watch)

    def watch() -> None:
        if action == "hang":
            runner.wait_for(probe.hanging.wait)
            token.cancel()
        runner.wait_for(transcript.has_ended.wait)

    if runner.is_inline:
        runner.run_inline(invocation, transcript, token)
        watch()
    else:
        asyncio.run(submit())
    events = [event for batch in transcript.batches for event in batch]
    assert [isinstance(event, (Result, Failed)) for event in events].count(True) == 1
    expected = Result if action in ("echo", "report") else Failed
    assert isinstance(events[-1], expected)
    assert all(transcript.batches)
    assert {event.request_id for event in events} == {"one"}
