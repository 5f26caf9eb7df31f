"""A configuration that comes again, as with each new connection, closes no function."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.models import Repo
from gen_worker.runtime.wire import EndpointConfig, StartupPhase
from gen_worker.testing.orchestrator import Orchestrator

if TYPE_CHECKING:
    from conftest import Work


class Text(msgspec.Struct):
    text: str = ""


@inference_function(models={"words": Repo("acme/words")})
def read(ctx: RequestContext, words: str, payload: Text) -> Text:
    return payload


async def test_a_job_right_behind_a_configuration_without_news_is_taken_in(
    work: "Work", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORHUB_CAS_DIR", str(tmp_path))
    async with Orchestrator() as orchestrator, work(orchestrator, read, config_grace_s=0.01):
        worker = await orchestrator.connected()

        def is_ready() -> bool:
            return any(one.phase == "ready" for one in worker.heard(StartupPhase))

        await orchestrator.until(is_ready, timeout_s=60.0)
        worker.send(EndpointConfig())
        result = await worker.submit("read").result(timeout_s=60.0)
        # Nobody says what its model is; that is the job's own trouble, and no closed gate.
        assert result.error_type == "artifact_transfer"
