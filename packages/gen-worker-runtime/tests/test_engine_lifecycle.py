"""A class is set up once, fails honestly, is tried again, and is shut down once."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gen_worker import Repo, RequestContext, Resources, inference, invocable
from gen_worker.cancel import shield
from gen_worker.errors import HardwareUnmetError
from gen_worker.events import Emitted
from gen_worker.runtime import Engine, EngineLimits, Invocation
from gen_worker.spec import specs_of
from gen_worker.testing import EndpointTester, fake_ports

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


class In(msgspec.Struct):
    text: str = "a"


class Out(msgspec.Struct):
    text: str


@inference
class Full:
    def setup(self) -> None:
        CALLS.append("setup")

    def warmup(self) -> None:
        CALLS.append("warmup")

    def shutdown(self) -> None:
        CALLS.append("shutdown")

    @invocable
    def say(self, ctx: RequestContext, payload: In) -> Out:
        CALLS.append("say")
        return Out(payload.text)


@inference
class FullAsync:
    async def setup(self) -> None:
        await asyncio.sleep(0)
        CALLS.append("setup")

    async def warmup(self) -> None:
        CALLS.append("warmup")

    def shutdown(self) -> None:
        CALLS.append("shutdown")

    @invocable
    def say(self, ctx: RequestContext, payload: In) -> Out:
        CALLS.append("say")
        return Out(payload.text)


WAYS = pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "loop"])


@WAYS
@pytest.mark.parametrize("cls", [Full, FullAsync])
def test_the_hooks_run_once_and_in_order(cls: type, is_inline: bool) -> None:
    with EndpointTester(cls, is_inline=is_inline) as tester:
        assert CALLS == [], "nothing happens before the first call"
        for _ in range(3):
            assert tester.run("say").failure is None
    assert CALLS == ["setup", "warmup", "say", "say", "say", "shutdown"]


@WAYS
def test_setup_can_come_first(is_inline: bool) -> None:
    with EndpointTester(Full, is_inline=is_inline) as tester:
        tester.setup()
        assert CALLS == ["setup", "warmup"]


def test_a_class_that_was_never_used_is_not_shut_down() -> None:
    with EndpointTester(Full):
        pass
    assert CALLS == []


def test_calls_that_arrive_during_setup_share_it() -> None:
    inside, may_end = threading.Event(), threading.Event()

    @inference
    class Slow:
        def setup(self) -> None:
            CALLS.append("setup")
            inside.set()
            assert may_end.wait(30)

        @invocable
        def say(self, ctx: RequestContext, payload: In) -> Out:
            return Out(payload.text)

    with EndpointTester(Slow) as tester:
        calls = [tester.start("say") for _ in range(5)]
        assert inside.wait(30)
        calls[0].cancel()  # the one that began it; the others still get their instance
        assert calls[0].wait().failure is not None
        may_end.set()
        assert all(call.wait().failure is None for call in calls[1:])
        assert calls[1].wait().timings.load_ms > 0
    assert CALLS == ["setup"]


@WAYS
def test_a_failed_setup_is_reported_and_tried_again(is_inline: bool) -> None:
    @inference
    class Fragile:
        broken = True

        def setup(self) -> None:
            CALLS.append("setup")
            if self.broken:
                raise OSError("no disk")

        @invocable
        def say(self, ctx: RequestContext, payload: In) -> Out:
            return Out(payload.text)

    limits = EngineLimits(setup_retry_s=1.0)
    with EndpointTester(Fragile, limits=limits, is_inline=is_inline) as tester:
        first = tester.run("say").failure
        assert first is not None
        assert (first.error_type, first.exception) == ("internal", "OSError")
        event = next(e for e in tester.events if isinstance(e, Emitted))
        assert event.type == "worker.function_unavailable"
        assert event.payload["functions"] == ["say"]
        assert (event.payload["reason"], event.payload["attempt"]) == ("setup_failed", 1)

        second = tester.run("say").failure
        assert second is not None
        assert (second.error_type, second.code) == ("function_unavailable", "setup_failed")
        assert second.retry_after_s == pytest.approx(1.0)
        assert CALLS == ["setup"], "too early for another attempt"

        tester.clock.advance(1.0)
        assert tester.run("say").failure is not None
        assert CALLS == ["setup", "setup"]
        tester.clock.advance(1.0)
        assert getattr(tester.run("say").failure, "code", "") == "setup_failed", "twice as long now"
        tester.clock.advance(1.0)
        Fragile.broken = False
        assert tester.run("say").value == Out("a")


def test_the_class_of_a_setup_error_is_kept() -> None:
    @inference
    class Picky:
        def setup(self) -> None:
            raise HardwareUnmetError("needs more memory")

        @invocable
        def say(self, ctx: RequestContext, payload: In) -> Out:
            return Out(payload.text)

    with EndpointTester(Picky) as tester:
        failure = tester.run("say").failure
        assert failure is not None
        assert failure.error_type == "hardware_unmet"
        tester.clock.advance(60)
        with pytest.raises(HardwareUnmetError):
            tester.setup()


def test_a_type_error_in_setup_does_not_call_it_again() -> None:
    @inference
    class Broken:
        def setup(self) -> None:
            CALLS.append("setup")
            raise TypeError("setup() got an unexpected keyword")

        @invocable
        def say(self, ctx: RequestContext, payload: In) -> Out:
            return Out(payload.text)

    with EndpointTester(Broken) as tester:
        assert tester.run("say").failure is not None
    assert CALLS == ["setup"]


@WAYS
def test_a_failed_warmup_is_told_and_not_fatal(is_inline: bool) -> None:
    @inference
    class Cold:
        def setup(self) -> None: ...

        def warmup(self) -> None:
            raise RuntimeError("too cold")

        @invocable
        def say(self, ctx: RequestContext, payload: In) -> Out:
            return Out(payload.text)

    with EndpointTester(Cold, is_inline=is_inline) as tester:
        assert tester.run("say").value == Out("a")
        event = next(e for e in tester.events if isinstance(e, Emitted))
        assert (event.type, event.payload["message"]) == ("worker.warmup_failed", "too cold")


CORE = Repo("core", "acme/core").allow_override("any.Model")


@inference(models={"core": CORE}, resources=Resources(requires_gpu=True))
class WithModel:
    def setup(self, core: Any) -> None:
        CALLS.append(f"setup {core}")
        self.core = core

    def shutdown(self) -> None:
        CALLS.append(f"shutdown {self.core}")

    @invocable
    def say(self, ctx: RequestContext, payload: In) -> Out:
        return Out(f"{self.core} {ctx.models['core']['ref']}")


@WAYS
def test_setup_receives_its_models(is_inline: bool) -> None:
    with EndpointTester(WithModel, models={"core": "ours"}, is_inline=is_inline) as tester:
        assert tester.run("say").value == Out("ours acme/core")
        assert tester.run("say").value == Out("ours acme/core")
        assert len(tester.models.prepared) == 1
        assert tester.models.leased == []
    assert CALLS == ["setup ours", "shutdown ours"]


def test_an_override_of_a_setup_model_gets_an_instance_of_its_own() -> None:
    models: dict[str, Any] = {"core": "ours"} | {f"a/m{n}": f"m{n}" for n in range(5)}
    with EndpointTester(WithModel, models=models) as tester:
        assert tester.run("say").value == Out("ours acme/core")
        for name in ("a/m0", "a/m1", "a/m0"):
            value = tester.run("say", overrides={"core": name}).value
            assert value == Out(f"{models[name]} {name}")
        assert CALLS == ["setup ours", "setup m0", "setup m1"], "m0 was kept"
        tester.run("say", overrides={"core": "a/m2"})
        assert CALLS[3:] == ["setup m2", "shutdown m1"], "the longest unused one gives way"
        assert tester.run("say").value == Out("ours acme/core")
    assert sorted(CALLS[5:]) == ["shutdown m0", "shutdown m2", "shutdown ours"]


def test_a_shutdown_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    @inference
    class Bad:
        def setup(self) -> None: ...

        def shutdown(self) -> None:
            raise RuntimeError("will not end")

        @invocable(name="bad")
        def say(self, ctx: RequestContext, payload: In) -> Out:
            return Out(payload.text)

    with EndpointTester([Bad, Full]) as tester:
        tester.run("bad")
        tester.run("say")
    assert CALLS[-1] == "shutdown"
    assert "will not end" in caplog.text


def test_two_failed_setups_are_reported_together() -> None:
    def broken(number: int) -> type:
        @inference
        class Broken:
            def setup(self) -> None:
                raise OSError(f"disk {number}")

            @invocable(name=f"say-{number}")
            def say(self, ctx: RequestContext, payload: In) -> Out:
                return Out(payload.text)

        return Broken

    with EndpointTester([broken(1), broken(2), Full]) as tester:
        with pytest.raises(ExceptionGroup) as caught:
            tester.setup()
        assert [str(error) for error in caught.value.exceptions] == ["disk 1", "disk 2"]
        assert CALLS == ["setup", "warmup"]


def await_ends_of_threads() -> None:
    """Wait until no thread of an engine lives."""
    for thread in threading.enumerate():
        if thread.name.startswith("gen-worker"):
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.parametrize("ends_by_itself", [True, False])
def test_closing_during_setup_waits_for_nobody(ends_by_itself: bool) -> None:
    """A setup under way is interrupted; one that ends all the same is shut down."""
    inside, may_end = threading.Event(), threading.Event()

    @inference
    class Slow:
        def setup(self) -> None:
            if ends_by_itself:
                with shield():
                    inside.set()
                    may_end.wait(30)
                    CALLS.append("setup")
                return
            inside.set()
            while True:
                pass

        def shutdown(self) -> None:
            CALLS.append("shutdown")

        @invocable
        def say(self, ctx: RequestContext, payload: In) -> Out:
            return Out(payload.text)

    with EndpointTester(Slow) as tester:
        call = tester.start("say")
        assert inside.wait(30)
        if ends_by_itself:  # a little later
            call.token.on_cancel(threading.Timer(0.05, may_end.set).start)
    await_ends_of_threads()
    assert call.wait().failure is not None
    assert CALLS == (["setup", "shutdown"] if ends_by_itself else [])


async def test_a_shutdown_that_does_not_return_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("gen_worker.runtime.engine.engine._SHUTDOWN_S", 0.05)
    go = threading.Event()

    @inference
    class Slow:
        def shutdown(self) -> None:
            go.wait()

        @invocable
        def say(self, ctx: RequestContext, payload: In) -> Out:
            return Out(payload.text)

    engine = Engine(specs_of(Slow), fake_ports(tmp_path))
    try:
        await engine.call(Invocation(function="say", request_id="r1"))
        await asyncio.wait_for(engine.close(), 30)
        assert "is left behind" in caplog.text
    finally:
        go.set()
