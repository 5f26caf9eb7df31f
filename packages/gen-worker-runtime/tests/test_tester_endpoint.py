"""EndpointTester: what an author's test can ask of it."""

import asyncio
import threading
import types
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gen_worker import (
    Asset,
    ConversionContext,
    RequestContext,
    inference,
    inference_function,
    invocable,
)
from gen_worker.errors import OverloadedError, ValidationError, WorkerError
from gen_worker.events import Log, Started
from gen_worker.spec import specs_of
from gen_worker.testing import EndpointTester, FakePublisher, Faults, RecordedEvents


class In(msgspec.Struct):
    text: str = "a"


class Out(msgspec.Struct):
    text: str


@inference_function
def echo(ctx: RequestContext, payload: In) -> Out:
    ctx.log(f"got {payload.text}")
    return Out(payload.text)


@inference_function
def words(ctx: RequestContext, payload: In) -> Iterator[Out]:
    for word in payload.text.split():
        yield Out(word)
    if payload.text.endswith("!"):
        raise ValueError("no shouting")


@inference
class Speaker:
    def setup(self) -> None: ...

    @invocable
    def say(self, ctx: RequestContext, payload: In) -> Out:
        return Out(payload.text)

    @invocable
    def ask(self, ctx: RequestContext, payload: In) -> Out:
        return Out(payload.text + "?")


def names(target: Any) -> list[str]:
    with EndpointTester(target) as tester:
        return list(tester.engine.functions)


def test_it_takes_functions_classes_modules_and_lists() -> None:
    module: Any = types.ModuleType(echo.__module__)
    module.echo, module.again, module.Speaker, module.number = echo, echo, Speaker, 1
    elsewhere: Any = types.ModuleType("elsewhere")
    elsewhere.echo = echo
    assert names(echo) == ["echo"]
    assert names(Speaker) == ["say", "ask"]
    assert names([echo, Speaker]) == ["echo", "say", "ask"]
    assert names(specs_of(echo)) == names(specs_of(echo)[0]) == ["echo"]
    assert names(module) == ["echo", "say", "ask"]
    with pytest.raises(ValueError, match="defines no function"):
        names(elsewhere)  # imported there, not defined there
    with pytest.raises(ValueError, match="defines no function"):
        names(len)


@pytest.mark.parametrize("payload", [None, {}, In(), b"{}"])
def test_it_takes_every_payload(payload: Any) -> None:
    with EndpointTester(echo) as tester:
        assert tester.run("echo", payload).value == Out("a")


def test_a_class_needs_the_name_of_the_function() -> None:
    with EndpointTester(Speaker) as tester:
        with pytest.raises(ValueError, match="stands for 2 functions"):
            tester.run(Speaker)
        assert tester.run("ask").value == Out("a?")


def test_a_result_shows_everything() -> None:
    with EndpointTester([echo, words]) as tester:
        result = tester.run(echo, {"text": "x"})
        assert result.failure is None
        assert [type(event) for event in result.events] == [Started, Log]
        assert result.timings.compute_ms >= 0
        assert result.request_id == "test-1"
        assert tester.run(words, {"text": "x y"}).deltas == [Out("x"), Out("y")]


def test_reading_the_value_of_a_failed_call_raises_an_error_like_the_one_that_failed_it() -> None:
    with EndpointTester([echo, words]) as tester:
        failed = tester.run(words, {"text": "x !"})
        assert failed.deltas == [Out("x"), Out("!")]
        with pytest.raises(ValueError, match="no shouting") as caught:
            _ = failed.value
        assert "in words" in "".join(caught.value.__notes__), "the handler's traceback is shown"
        with pytest.raises(ValidationError) as refused:
            _ = tester.run(echo, {"text": 1}).value
        assert refused.value.path == "$.text"


def test_an_error_of_an_unknown_class_is_a_worker_error() -> None:
    class Own(Exception):
        pass

    @inference_function
    def fail(ctx: RequestContext, payload: In) -> Out:
        raise OverloadedError("busy", retry_after_s=7) if payload.text == "busy" else Own("x")

    with EndpointTester(fail) as tester:
        with pytest.raises(WorkerError, match="internal error"):
            _ = tester.run(fail).value
        with pytest.raises(OverloadedError) as caught:
            _ = tester.run(fail, {"text": "busy"}).value
        assert caught.value.retry_after_s == 7


def test_a_stream_comes_item_by_item_and_its_failure_at_the_end() -> None:
    with EndpointTester(words) as tester:
        assert list(tester.stream(words, {"text": "a b"})) == [Out("a"), Out("b")]
        items = tester.stream(words, {"text": "a !"})
        assert [next(items), next(items)] == [Out("a"), Out("!")]
        with pytest.raises(ValueError, match="no shouting"):
            next(items)


def test_waiting_too_long_is_an_error() -> None:
    release = threading.Event()

    @inference_function
    def wait(ctx: RequestContext, payload: In) -> Iterator[Out]:
        release.wait(60)
        yield Out("x")

    with EndpointTester(wait) as tester:
        call = tester.start(wait)
        call.wait_until_started()
        assert not call.is_done
        with pytest.raises(TimeoutError, match="'test-1' has not ended"):
            call.wait(timeout_s=0.01)
        with pytest.raises(TimeoutError, match="yielded nothing"):
            next(call.iterate(timeout_s=0.01))
        waiting = tester.start(wait, request_id="test-9")
        with pytest.raises(TimeoutError, match="no such event"):
            RecordedEvents().wait_for(lambda event: True, timeout_s=0.01)
        release.set()
        assert call.wait().deltas == waiting.wait().deltas == [Out("x")]


def test_ports_fail_as_often_as_asked() -> None:
    @inference_function
    def save(ctx: RequestContext, payload: In) -> Out:
        asset: Asset = ctx.save_bytes("a.txt", b"x")
        return Out(asset.ref)

    with EndpointTester(save) as tester:
        tester.fail("files.save", OSError("disk full"), times=2)
        tester.fail("files.save", PermissionError("not yours"))
        failures = [tester.run(save).failure for _ in range(4)]
        exceptions = [failure.exception if failure else "" for failure in failures]
        assert exceptions == ["OSError", "OSError", "PermissionError", ""]
        assert tester.files.refs == ["jobs/test-4/outputs/a.txt"]


def test_a_fault_may_stay() -> None:
    faults = Faults()
    faults.script("files.save", OSError(), times=None)
    for _ in range(5):
        with pytest.raises(OSError):  # noqa: PT011 - any
            faults.check("files.save")
    faults.check("files.open_output")


def test_in_an_async_test_other_tasks_go_on() -> None:
    inside = threading.Event()

    @inference_function
    async def wait(ctx: RequestContext, payload: In) -> Out:
        inside.set()
        await asyncio.sleep(60)
        return Out("")

    async def test() -> None:
        async with EndpointTester([echo, wait]) as tester:
            assert (await tester.call(echo)).value == Out("a")
            waiting = asyncio.create_task(tester.call(wait))
            while not inside.is_set():
                await asyncio.sleep(0.001)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            while tester.statistics().canceled == 0:
                await asyncio.sleep(0.001)

    asyncio.run(test())


def test_an_inline_tester_says_what_it_cannot_do() -> None:
    with EndpointTester(echo, is_inline=True) as tester:
        assert tester.run(echo).value == Out("a")
        with pytest.raises(RuntimeError, match="leave is_inline out"):
            tester.start(echo)


def test_an_inline_call_runs_in_the_tests_thread() -> None:
    seen = []

    @inference_function
    def where(ctx: RequestContext, payload: In) -> Out:
        seen.append(threading.current_thread())
        return Out("")

    for is_inline in (True, False):
        with EndpointTester(where, is_inline=is_inline) as tester:
            tester.run(where)
    assert seen[0] is threading.main_thread()
    assert seen[1] is not threading.main_thread()


def test_nothing_is_left_behind(capfd: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    with EndpointTester(echo) as tester:
        path = tester.files.add("a.txt", b"x")
        tester.run(echo)
        directory = tester._directory.name
    import os

    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert set(threading.enumerate()) <= before
    assert not os.path.exists(path)
    assert not os.path.exists(directory)


def test_the_fake_publisher_keeps_what_it_is_given(tmp_path: Any) -> None:
    from gen_worker.testing import fake_ports

    publisher = FakePublisher(Faults())
    ports = msgspec.structs.replace(fake_ports(tmp_path), publisher=publisher)
    ctx = ConversionContext("r", ports=ports)
    source = tmp_path / "w.safetensors"
    source.write_bytes(b"weights")
    answer = ctx.publish_repo_revision(destination_repo="acme/tiny", destination_repo_tags=["v1"])
    assert answer["ok"] is True
    assert publisher.published[0]["destination"] == "acme/tiny"
    assert publisher.published[0]["manifest"]["destination_repo_tags"] == ["v1"]
    assert publisher.aborted == []


@inference_function
def unsaid(ctx: RequestContext, payload: In) -> Out:
    return Out(object())  # type: ignore[arg-type]  # the mistake


def test_what_a_server_could_not_send_fails_here_too() -> None:
    with EndpointTester(unsaid) as tester:
        result = tester.run("unsaid")
        assert result.failure is not None
        assert result.failure.error_type == "internal"
        with pytest.raises(TypeError):
            _ = result.value
