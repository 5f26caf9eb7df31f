"""`python -m gen_worker.testing.mock_orchestrator`: wait for a worker, run one function, print it.

Exit codes: 0 the job succeeded, 1 it failed, 2 no worker came, 3 no result came, 64 the command
line is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import uuid
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import msgspec

from gen_worker.models.refs import RefError, TensorhubRef, parse_prefixed_ref
from gen_worker.names import slugify_name
from gen_worker.runtime.loop import run
from gen_worker.runtime.wire import (
    EndpointConfig,
    Registration,
    ResolvedModel,
    TokenDelta,
    WorkerEvent,
)
from gen_worker.testing.orchestrator import Orchestrator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.models.refs import Ref
    from gen_worker.runtime.wire import JobResult, Message
    from gen_worker.testing.file_api import FileApi
    from gen_worker.testing.orchestrator import Job, WorkerSession

__all__ = ["main"]

SUCCEEDED, FAILED, NO_WORKER, NO_RESULT, USAGE = 0, 1, 2, 3, 64

_MIN_RESULT_WAIT_S = 5.0
_LAST_EVENTS = ("request.completed", "request.failed", "request.cancelled", "request.rejected")
_FIRST, _ONLY_EVENT, _LAST_EVENT_S = "request.received", "metrics.job", 3.0
_LAST_WORDS_S = 1.0
"""For streams to end in order: a broken one makes a worker send its last results again."""
_FOREVER_S = 1e9
_SECRET_METADATA = frozenset({"authorization"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job on whatever worker connects; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return run(_serve(options))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return _fail(USAGE, str(error))


class _Parser(argparse.ArgumentParser):
    """Ends with a code of its own: 2 says that no worker came."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m gen_worker.testing.mock_orchestrator",
        description="Wait for one worker, give it one job, print what comes of it. No token is "
        "asked for.",
    )
    add = parser.add_argument
    add("--run", required=True, metavar="FUNCTION", help="the function to run")
    add("--payload-json", type=_payload, default={}, metavar="JSON", help="its payload")
    add(
        "--listen",
        type=_address,
        default="0.0.0.0:8080",
        metavar="HOST:PORT",
        help="for workers (plaintext; default: %(default)s)",
    )
    add(
        "--wait-s",
        type=float,
        default=30.0,
        metavar="S",
        help="to wait for a worker (default: %(default)s)",
    )
    add(
        "--result-wait-s",
        type=float,
        metavar="S",
        help="to wait for the result once the job is sent (default: --wait-s, at least 5)",
    )
    add("--timeout-ms", type=int, default=0, metavar="MS", help="the job may take; 0: no limit")
    add("--owner", default="", help="on whose behalf the job runs")
    add("--invoker-id", default="", help="who asked for it")
    add(
        "--required-model",
        action="append",
        type=_model,
        default=[],
        metavar="[SLOT=]REF",
        help="the model a slot is given, instead of the function's own; repeatable",
    )
    add(
        "--input-ref-url",
        action="append",
        type=_pair,
        default=[],
        metavar="REF=URL",
        help="replace the payload's `ref` values that are REF by URL; repeatable",
    )
    add("--serve-files-dir", metavar="DIR", help="serve the files there, and store outputs there")
    add(
        "--serve-files-listen",
        type=_address,
        default="0.0.0.0:8081",
        metavar="HOST:PORT",
        help="where (default: %(default)s)",
    )
    add("--print-events", action="store_true", help="print the worker's events")
    add("--print-registrations", action="store_true", help="print what the worker says of itself")
    return parser


def _payload(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise argparse.ArgumentTypeError(f"not a JSON object: {error}") from error


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, port 0 to 65535, not {text!r}")
    return text


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise argparse.ArgumentTypeError(f"expected REF=URL, not {text!r}")
    return name, value


def _model(text: str) -> tuple[str, Ref]:
    slot, separator, rest = text.partition("=")
    has_slot = bool(separator) and slot.isidentifier()
    try:
        ref = parse_prefixed_ref(rest if has_slot else text)
    except RefError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not has_slot and not isinstance(ref, TensorhubRef):
        raise argparse.ArgumentTypeError(f"{text!r} is not the hub's: name its slot, SLOT={text}")
    return slot if has_slot else "", ref


async def _serve(options: argparse.Namespace) -> int:
    async with AsyncExitStack() as stack:
        orchestrator = await stack.enter_async_context(Orchestrator(options.listen))
        files: FileApi | None = None
        if options.serve_files_dir:
            from gen_worker.testing.file_api import FileApi as Files

            files = await stack.enter_async_context(
                Files(options.serve_files_dir, options.serve_files_listen)
            )
            _say("files", f"serving {options.serve_files_dir} on {options.serve_files_listen}")
        try:
            worker = await _wait_for_worker(options, orchestrator)
        except TimeoutError:
            waited = f"within {options.wait_s:g} s"
            if any(one.is_connected for one in orchestrator.workers.values()):
                return _fail(NO_WORKER, f"the models of {options.run!r} were not loaded {waited}")
            return _fail(NO_WORKER, f"no worker connected to {orchestrator.address} {waited}")
        code = await _run(options, worker, files)
        orchestrator.refusal = (grpc.StatusCode.UNAVAILABLE, "the mock orchestrator has ended")
        await orchestrator.hang_up()
        await orchestrator.stop(_LAST_WORDS_S)
        return code


async def _wait_for_worker(
    options: argparse.Namespace, orchestrator: Orchestrator
) -> WorkerSession:
    """Return a worker once the function can be run there, or surely cannot."""
    function = slugify_name(options.run)
    config = EndpointConfig(required_refs=_required_refs(options))
    configured: set[WorkerSession] = set()

    def found() -> WorkerSession | None:
        workers = {one for one in orchestrator.workers.values() if one.is_connected}
        for worker in workers - configured:
            worker.send(config)  # at once, as pools do: workers wait for it
        configured.update(workers)
        return next((one for one in workers if function not in _loading(one)), None)

    return await orchestrator.until(found, timeout_s=options.wait_s)


def _loading(worker: WorkerSession) -> tuple[str, ...]:
    return worker.registration.resources.loading_functions


async def _run(
    options: argparse.Namespace,
    worker: WorkerSession,
    files: FileApi | None,
) -> int:
    _print_connected(worker)
    job = _submit(options, worker, files)
    _say("sent", f"request_id={job.request.request_id} function={job.request.function}")
    wait_s = options.result_wait_s
    if wait_s is None:
        wait_s = max(_MIN_RESULT_WAIT_S, options.wait_s)
    printer = _Printer(options, job, worker)
    try:
        async with asyncio.timeout(wait_s):
            await printer.print_until(lambda: job.is_finished)
    except TimeoutError:
        return _fail(NO_RESULT, f"no result within {wait_s:g} s")
    if options.print_events:  # they come on a stream of their own, and some after the result
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_EVENT_S):
                await printer.print_until(lambda: _is_told(job))
    return _print_result(job.results[0], _hint(options.run, worker))


def _is_told(job: Job) -> bool:
    """Tell whether all events of a finished job are here."""
    types = {event.event_type for event in job.events}
    return not types.isdisjoint(_LAST_EVENTS) or (_ONLY_EVENT in types and _FIRST not in types)


def _hint(function: str, worker: WorkerSession) -> str:
    """Return what to say about a function that the worker does not have."""
    names = _functions(worker)
    return (
        "" if slugify_name(function) in names else f"; the worker has {', '.join(names) or 'none'}"
    )


def _functions(worker: WorkerSession) -> tuple[str, ...]:
    resources = worker.registration.resources
    return (*resources.available_functions, *resources.loading_functions)


def _submit(options: argparse.Namespace, worker: WorkerSession, files: FileApi | None) -> Job:
    return worker.submit(
        options.run,
        _with_urls(options.payload_json, dict(options.input_ref_url)),
        # Of its own for each run: the worker may send the result of an earlier one again.
        request_id=f"mock-{uuid.uuid4()}",
        timeout_ms=options.timeout_ms,
        owner=options.owner,
        invoker_id=options.invoker_id,
        file_base_url=files.url_for(worker.peer) if files is not None else "",
        capability_token=files.token if files is not None else "",
        models={slot: _resolved(slot, ref) for slot, ref in options.required_model if slot},
    )


def _required_refs(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the models that are named without a slot: the worker fetches them beforehand."""
    return tuple(str(ref) for slot, ref in options.required_model if not slot)


def _resolved(slot: str, ref: Ref) -> ResolvedModel:
    if not isinstance(ref, TensorhubRef):
        return ResolvedModel(slot_name=slot, ref=str(ref), provider=ref.provider, source="default")
    return ResolvedModel(
        slot_name=slot,
        ref=ref.repository,
        tag=ref.tag,
        flavor=ref.flavor,
        source="default",
    )


def _with_urls(value: Any, urls: Mapping[str, str]) -> Any:
    """Return a payload with the URL of each `ref` that has one in its place."""
    if isinstance(value, dict):
        return {
            key: urls.get(item, item)
            if key == "ref" and isinstance(item, str)
            else _with_urls(item, urls)
            for key, item in value.items()
        }
    return [_with_urls(item, urls) for item in value] if isinstance(value, list) else value


# What is printed.


class _Printer:
    """Prints what a worker says, as it comes."""

    def __init__(self, options: argparse.Namespace, job: Job, worker: WorkerSession) -> None:
        self._options = options
        self._job = job
        self._worker = worker
        self._seen = 0

    async def print_until(self, is_over: Callable[[], bool]) -> None:
        worker = self._worker
        while True:
            for _, message in worker.messages[self._seen :]:
                self._print(message)
            self._seen = len(worker.messages)
            if is_over():
                return
            await worker.orchestrator.until(
                lambda: len(worker.messages) > self._seen, timeout_s=_FOREVER_S
            )

    def _print(self, message: Message) -> None:
        own = getattr(message, "request_id", "") == self._job.request.request_id
        match message:
            case TokenDelta() if own:
                sound = (
                    f" +{len(message.audio_chunk)} bytes of sound" if message.audio_chunk else ""
                )
                _say("delta", message.payload_json.decode() + sound)
            case WorkerEvent() if self._options.print_events:
                _say("event", f"{message.event_type} {message.payload_json.decode()}")
            case Registration() if self._options.print_registrations:
                _say("registration", repr(message))
            case _:
                pass


def _print_connected(worker: WorkerSession) -> None:
    resources = worker.registration.resources
    metadata = {
        name: "***" if name in _SECRET_METADATA else str(value)
        for name, value in worker.metadata.items()
    }
    facts = {
        "worker_id": worker.worker_id,
        "release_id": resources.release_id,
        "functions": ",".join(resources.available_functions),
        "loading": ",".join(resources.loading_functions),
        "metadata": msgspec.json.encode(metadata).decode(),
    }
    _say("connected", " ".join(f"{name}={value}" for name, value in facts.items()))


def _print_result(result: JobResult, hint: str) -> int:
    if not result.success:
        text = f"{result.error_type}: {result.safe_message}{hint}"
        return _fail(FAILED, f"the job failed: {text}{' (retryable)' if result.retryable else ''}")
    if result.payload:
        output = msgspec.json.encode(msgspec.msgpack.decode(result.payload))
        _say("output", "\n" + msgspec.json.format(output, indent=2).decode())
    else:
        _say("output", "<empty>")
    return SUCCEEDED


def _say(section: str, text: str) -> None:
    print(f"[{section}] {text}", flush=True)


def _fail(code: int, text: str) -> int:
    print(f"mock_orchestrator: {text}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
