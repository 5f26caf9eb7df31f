"""Workers that are connected, take requests and say nothing of them ever again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.requests import RequestOptions, RetryPolicy

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from conftest import Kit, Platform

LONG_S = 10_000.0
"""So long nothing in these tests takes by itself."""


class Clock:
    """The time, and hours that a test says have passed."""

    def __init__(self) -> None:
        self._time = steady_clock()
        self._ahead_s = 0.0

    def __call__(self) -> float:
        return self._time() + self._ahead_s

    def jump(self) -> None:
        self._ahead_s += 2 * LONG_S


class Scene:
    """A scheduler whose patience ends when the test says so."""

    def __init__(self, kit: Kit) -> None:
        self.clock = Clock()
        self._kit = kit

    def scheduling(
        self, *, max_lost: int = 3, described: dict[str, Any] | None = None, **limits: float
    ) -> AbstractAsyncContextManager[Platform]:
        easy = self._kit.easy
        policy = replace(easy.policy, silent_s=1e9)  # workers go on to say that they are there
        options = replace(easy, policy=policy, mute_look_s=0.01, **limits)
        retries = RetryPolicy(first_delay_s=0.0, jitter=0.0, max_lost=max_lost)
        return self._kit.scheduling(
            options=options,
            requests=RequestOptions(retries=retries),
            described=described,
            clock=self.clock,
        )


@pytest.mark.parametrize("timeout_ms", [1000, None])
async def test_a_request_of_which_nothing_is_heard_is_given_to_another_worker(
    kit: Kit, timeout_ms: int | None
) -> None:
    scene, described = Scene(kit), {"echo": {"timeout_ms": timeout_ms}}
    limits: dict[str, Any] = {"mute_grace_s" if timeout_ms else "mute_after_s": LONG_S}
    async with (
        scene.scheduling(described=described, **limits) as platform,
        kit.puppet(platform, "w1") as mute,
    ):
        await platform.submit("r1")
        await mute.job("r1")
        async with kit.puppet(platform, "w2") as other:
            scene.clock.jump()
            await other.job("r1")
            await other.answer("r1")
            assert (await platform.end("r1")).attempt == 2


async def test_what_it_answers_after_all_counts(kit: Kit) -> None:
    scene = Scene(kit)
    async with (
        scene.scheduling(mute_after_s=LONG_S) as platform,
        kit.puppet(platform, "w1") as mute,
    ):
        await platform.submit("r1")
        await mute.job("r1")
        async with kit.puppet(platform, "w2") as other:
            scene.clock.jump()
            await other.job("r1")
            await mute.answer("r1", "late")
            assert await platform.output("r1") == "late"


async def test_it_fails_after_as_many_workers_as_may_be_lost(kit: Kit) -> None:
    scene = Scene(kit)
    async with (
        scene.scheduling(max_lost=2, mute_after_s=LONG_S) as platform,
        kit.puppet(platform) as mute,
    ):
        await platform.submit("r1")
        for _ in range(2):
            await mute.job("r1")
            scene.clock.jump()
        ending = (await platform.end("r1")).ending
        assert ending is not None
        assert ending.failure is not None
        assert ending.failure.error_type == "fatal"


async def test_whoever_has_said_something_is_given_time_anew(kit: Kit) -> None:
    scene = Scene(kit)
    async with (
        scene.scheduling(described={"echo": kit.streamed}, mute_after_s=3 * LONG_S) as platform,
        kit.puppet(platform) as worker,
    ):
        await platform.submit("r1")
        await worker.job("r1")
        for sequence in range(1, 4):
            scene.clock.jump()
            await worker.stream("r1", sequence)
            await platform.until("r1", lambda one, n=sequence: one.last_sequence == n)  # type: ignore[misc]
        await worker.done("r1", 4)
        await worker.finish("r1")
        assert (await platform.end("r1")).attempt == 1


async def test_it_is_off_where_the_operator_says_so(kit: Kit) -> None:
    scene, described = Scene(kit), {"echo": {"timeout_ms": 1}}
    async with (
        scene.scheduling(described=described, mute_grace_s=0.0, mute_after_s=LONG_S) as platform,
        kit.puppet(platform, available_functions=("echo", "other")) as worker,
    ):
        await platform.submit("r1")
        await platform.submit("r2", function="other")
        assert {(await worker.job()).request_id for _ in range(2)} == {"r1", "r2"}
        scene.clock.jump()
        await platform.seen(lambda: len(platform.dispatcher.workers()[0].running) == 1)
        await worker.answer("r1")
        assert (await platform.end("r1")).attempt == 1
