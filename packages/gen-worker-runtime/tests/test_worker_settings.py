"""What an operator says reaches the worker: each variable, by its name."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.errors import AuthError, SettingsError
from gen_worker.runtime.auth import verification
from gen_worker.runtime.wire import (
    MAX_RECEIVE_BYTES,
    DeltaForm,
    EndpointConfig,
    ModelReady,
    encode,
)
from gen_worker.runtime.worker.backoff import Backoff
from gen_worker.runtime.worker.identity import MissingTokenError, check_token, identity_of
from gen_worker.runtime.worker.options import options_of, outbox_limits_of
from gen_worker.runtime.worker.settings import WorkerSettings
from gen_worker.settings import load
from gen_worker.testing.orchestrator import Orchestrator

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Work
    from gen_worker.runtime.worker.options import WorkerOptions


def read(**environ: str) -> WorkerSettings:
    return load(WorkerSettings, environ=environ, files=())


def jwt(**claims: Any) -> str:
    parts = ({"alg": "none"}, claims)
    encoded = [base64.urlsafe_b64encode(msgspec.json.encode(part)).rstrip(b"=") for part in parts]
    return b".".join([*encoded, b"x"]).decode()


@pytest.mark.claims(
    "LB_ONLY_RETRIES",
    "MAX_RECONNECT_ATTEMPTS",
    "RECONNECT_DELAY",
    "RECONNECT_JITTER_SECONDS",
    "RECONNECT_MAX_DELAY",
    "SCHEDULER_ADDRS",
    "USE_TLS",
    "WORKER_DISCONNECTED_TIMEOUT_S",
    "WORKER_HALF_OPEN_SILENCE_TIMEOUT_S",
    "WORKER_REGISTER_TIMEOUT_S",
)
def test_how_it_connects() -> None:
    policy = read(ORCHESTRATOR_PUBLIC_ADDR="a:1").policy()
    assert [str(seed) for seed in policy.seeds] == ["grpc://a:1"]
    assert policy.backoff == Backoff(0.1, 1.0, 0.1)
    assert (policy.max_attempts, policy.register_timeout_s) == (0, 90.0)
    assert (policy.disconnected_timeout_s, policy.silence_timeout_s) == (0.0, 60.0)
    assert policy.follows_redirects is False
    assert policy.use_tls is None

    policy = read(
        PUBLIC_ORCHESTRATOR_GRPC_ADDR="a:1",
        SCHEDULER_ADDRS="b:2, a:1,c:3",
        USE_TLS="t",
        LB_ONLY_RETRIES="false",
        RECONNECT_DELAY="1",
        RECONNECT_MAX_DELAY="2",
        RECONNECT_JITTER_SECONDS="3",
        MAX_RECONNECT_ATTEMPTS="4",
        WORKER_REGISTER_TIMEOUT_S="5",
        WORKER_DISCONNECTED_TIMEOUT_S="6",
        WORKER_HALF_OPEN_SILENCE_TIMEOUT_S="-1",
    ).policy()
    assert [str(seed) for seed in policy.seeds] == ["grpcs://a:1", "grpcs://b:2", "grpcs://c:3"]
    assert policy.backoff == Backoff(1.0, 2.0, 3.0)
    assert (policy.max_attempts, policy.register_timeout_s) == (4, 5.0)
    assert (policy.disconnected_timeout_s, policy.silence_timeout_s) == (6.0, 0.0)
    assert policy.follows_redirects is True
    assert policy.use_tls is True


def test_what_is_not_understood_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        read(RECONNECT_DELAY="-1", WORKER_MAX_CONCURRENCY="many")
    assert len(caught.value.problems) == 2
    with pytest.raises(SettingsError):
        read().policy()


@pytest.mark.claims("RUNPOD_POD_ID", "WORKER_ID", "WORKER_JWT")
def test_the_token_says_who_the_worker_is() -> None:
    token = jwt(sub="from-token", release_id="r9")
    settings = read(WORKER_JWT=token, WORKER_ID="from-env", RUNPOD_POD_ID="pod")
    identity = check_token(settings)
    assert identity == ("from-token", "r9", "pod")
    assert identity.provider == "runpod"
    assert check_token(read(WORKER_JWT="dev-worker-jwt", WORKER_ID="from-env"))[:2] == (
        "from-env",
        "",
    )
    assert identity_of("dev-worker-jwt").worker_id.startswith("py-worker-")
    with pytest.raises(MissingTokenError, match="WORKER_JWT"):
        check_token(read())
    assert token not in repr(settings)


@pytest.mark.claims(
    "SCHEDULER_JWKS_TTL_SECONDS",
    "SCHEDULER_JWKS_URL",
    "SCHEDULER_JWT_AUDIENCE",
    "SCHEDULER_JWT_ISSUER",
)
def test_the_token_is_checked_where_there_are_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Verifier:
        def __init__(self, url: str, **options: Any) -> None:
            asked.append((url, options))

        def verify(self, token: str) -> None:
            raise AuthError(f"{token} is not good")

    monkeypatch.setattr(verification, "TokenVerifier", Verifier)
    settings = read(
        WORKER_JWT="a-token",
        SCHEDULER_JWKS_URL="https://keys",
        SCHEDULER_JWT_ISSUER="me",
        SCHEDULER_JWT_AUDIENCE="you",
        SCHEDULER_JWKS_TTL_SECONDS="7",
    )
    with pytest.raises(AuthError):
        check_token(settings)
    assert asked == [("https://keys", {"issuer": "me", "audience": "you", "ttl_s": 7.0})]


@pytest.mark.claims(
    "COZY_EMIT_RESIDENCY_TIER",
    "WORKER_DRAIN_TIMEOUT_SECONDS",
    "WORKER_FAKE_GPU_COUNT",
    "WORKER_FAKE_GPU_MEMORY_BYTES",
    "WORKER_FAKE_GPU_NAME",
    "WORKER_MAX_CONCURRENCY",
    "WORKER_MODELS_READY_ON_CONNECT",
    "WORKER_SPLIT_STREAMS",
)
def test_how_it_works() -> None:
    options = options_of(
        read(
            COZY_EMIT_RESIDENCY_TIER="1",
            WORKER_DRAIN_TIMEOUT_SECONDS="30",
            WORKER_FAKE_GPU_COUNT="2",
            WORKER_FAKE_GPU_MEMORY_BYTES="1024",
            WORKER_FAKE_GPU_NAME="Paper",
            WORKER_MAX_CONCURRENCY="3",
            WORKER_MODELS_READY_ON_CONNECT="yes",
            WORKER_SPLIT_STREAMS="off",
        )
    )
    assert [(gpu.name, gpu.memory_bytes) for gpu in options.gpus] == [("Paper", 1024)] * 2
    assert options.times.drain_s == 30.0
    assert (options.max_concurrency, options.splits) == (3, False)
    assert (options.emits_tiers, options.ready_on_connect) == (True, True)
    plain: WorkerOptions = options_of(read(WORKER_FAKE_GPU_COUNT="1"))
    assert (plain.gpus[0].name, plain.gpus[0].memory_bytes) == ("FakeGPU", 24 * 1024**3)
    assert (plain.max_concurrency, plain.splits, plain.emits_tiers) == (0, True, False)


@pytest.mark.claims("WORKER_MAX_OUTPUT_DELTA_EVENTS")
def test_streams_may_be_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert options_of(read()).limits.max_deltas == 0
    monkeypatch.setenv("WORKER_MAX_OUTPUT_DELTA_EVENTS", "7")
    assert options_of(read()).limits.max_deltas == 7


def test_an_item_of_whatever_text_fits_into_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_MAX_OUTPUT_DELTA_BYTES", "0")
    text = "\x01" * options_of(read()).limits.max_output_delta_bytes
    delta = DeltaForm("write").delta({"text": text}, request_id="r1")
    assert len(encode(delta)) < MAX_RECEIVE_BYTES


@pytest.mark.claims("WORKER_MERGE_DELTAS")
def test_text_is_merged_unless_the_operator_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert outbox_limits_of(read()).merges_text
    assert not outbox_limits_of(read(WORKER_MERGE_DELTAS="0")).merges_text
    monkeypatch.setenv("WORKER_MAX_OUTPUT_DELTA_BYTES", "1000")
    assert outbox_limits_of(read()).max_message_bytes == 1000
    monkeypatch.setenv("WORKER_MAX_OUTPUT_DELTA_BYTES", "0")
    assert outbox_limits_of(read()).max_message_bytes == 65_536


async def test_one_stream_is_enough_and_connects_are_announced(work: Work) -> None:
    async with (
        Orchestrator() as orchestrator,
        work(orchestrator, splits=False, ready_on_connect=True),
    ):
        worker = await orchestrator.connected()
        await orchestrator.until(lambda: worker.events("model.ready"))
        assert set(worker.streams) == {"control"}


async def test_the_memory_a_model_came_to_may_be_told(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORHUB_CAS_DIR", str(tmp_path))
    async with Orchestrator() as orchestrator, work(orchestrator, emits_tiers=True) as running:
        worker = await orchestrator.connected()
        worker.send(EndpointConfig())
        running.models.library.residency.know("acme/words:prod", path="/somewhere")
        told = await orchestrator.until(lambda: worker.heard(ModelReady))
        assert told == [ModelReady(model_id="acme/words:prod\ttier=DISK", kind="cached")]
