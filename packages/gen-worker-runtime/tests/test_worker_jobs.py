"""Jobs of a whole worker: real gRPC, a real engine, and an orchestrator that checks the answers."""

from __future__ import annotations

import msgspec

from gen_worker import RequestContext, inference_function
from gen_worker.runtime.wire import FunctionCapabilities, StartupPhase
from gen_worker.testing.orchestrator import Orchestrator
from gen_worker.testing.workers import running_worker


class Text(msgspec.Struct):
    text: str = ""
    count: int = 1


@inference_function
def hello(ctx: RequestContext, payload: Text) -> Text:
    return Text(text=f"hello {payload.text}")


async def test_a_job_is_run_and_answered() -> None:
    async with Orchestrator() as orchestrator, running_worker(orchestrator, hello):
        worker = await orchestrator.connected()
        output = await worker.submit("hello", {"text": "world"}).output()
        assert output == {"text": "hello world", "count": 1}
        assert worker.registration.resources.available_functions == ("hello",)
        assert worker.heard(FunctionCapabilities)
        assert worker.heard(StartupPhase)[-1].phase == "ready"
