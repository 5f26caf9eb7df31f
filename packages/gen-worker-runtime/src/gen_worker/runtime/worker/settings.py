"""What an operator may say about a worker's connection and its jobs."""

from __future__ import annotations

from typing import Annotated

from gen_worker.runtime.worker.backoff import Backoff
from gen_worker.runtime.worker.states import LinkPolicy
from gen_worker.settings import Setting, SettingsRecord
from gen_worker.settings_values import parse_amount, parse_count

__all__ = ["WorkerSettings"]

_GIB = 1024**3


class WorkerSettings(SettingsRecord, frozen=True, kw_only=True):
    """Settings of a worker in a pool. Limits of 0 are off."""

    address: Annotated[
        str,
        Setting(
            env="PUBLIC_ORCHESTRATOR_GRPC_ADDR",
            aliases=("ORCHESTRATOR_PUBLIC_ADDR",),
            group="orchestrator",
            meaning="host:port of the orchestrator, or a URL with grpc(s) or http(s)",
        ),
    ] = ""
    more_addresses: Annotated[
        tuple[str, ...],
        Setting(
            env="SCHEDULER_ADDRS",
            group="orchestrator",
            meaning="more addresses to connect to, separated by commas",
        ),
    ] = ()
    token: Annotated[
        str,
        Setting(
            env="WORKER_JWT",
            group="orchestrator",
            meaning="token a worker connects with; its claims say who the worker is",
            is_secret=True,
        ),
    ] = ""
    worker_id: Annotated[
        str,
        Setting(
            env="WORKER_ID",
            group="worker",
            meaning="id of a worker whose token names none",
        ),
    ] = ""
    runpod_pod_id: Annotated[
        str,
        Setting(env="RUNPOD_POD_ID", group="worker", meaning="pod that the worker runs in"),
    ] = ""
    use_tls: Annotated[
        bool | None,
        Setting(
            env="USE_TLS",
            group="worker",
            meaning="whether connections are encrypted; empty follows the address",
        ),
    ] = None
    lb_only_retries: Annotated[
        bool,
        Setting(
            env="LB_ONLY_RETRIES",
            group="worker",
            meaning="whether only configured addresses are dialed, and redirects are ignored",
        ),
    ] = True
    split_streams: Annotated[
        bool,
        Setting(
            env="WORKER_SPLIT_STREAMS",
            group="worker",
            meaning="whether results and events have streams of their own",
        ),
    ] = True
    reconnect_delay_s: Annotated[
        float,
        Setting(
            env="RECONNECT_DELAY",
            group="worker",
            meaning="seconds before the first new attempt; doubles with each",
            parse=parse_amount,
        ),
    ] = 0.1
    reconnect_max_delay_s: Annotated[
        float,
        Setting(
            env="RECONNECT_MAX_DELAY",
            group="worker",
            meaning="seconds between two attempts at most",
            parse=parse_amount,
        ),
    ] = 1.0
    reconnect_jitter_s: Annotated[
        float,
        Setting(
            env="RECONNECT_JITTER_SECONDS",
            group="worker",
            meaning="random seconds added, so that workers do not return in step",
            parse=parse_amount,
        ),
    ] = 0.1
    max_reconnect_attempts: Annotated[
        int,
        Setting(
            env="MAX_RECONNECT_ATTEMPTS",
            group="worker",
            meaning="failed attempts in a row after which the worker ends; 0 never",
            parse=parse_count,
        ),
    ] = 0
    register_timeout_s: Annotated[
        float,
        Setting(
            env="WORKER_REGISTER_TIMEOUT_S",
            group="worker",
            meaning="seconds to the first connection, after which the worker ends; 0 never",
            parse=parse_amount,
        ),
    ] = 90.0
    disconnected_timeout_s: Annotated[
        float,
        Setting(
            env="WORKER_DISCONNECTED_TIMEOUT_S",
            group="worker",
            meaning="seconds without a connection after which the worker ends; 0 never",
            parse=parse_amount,
        ),
    ] = 0.0
    silence_timeout_s: Annotated[
        float,
        Setting(
            env="WORKER_HALF_OPEN_SILENCE_TIMEOUT_S",
            group="worker",
            meaning="seconds without a word from the orchestrator before connecting anew, up to "
            "eight times as many for one that never says any; 0 never",
        ),
    ] = 60.0
    jwks_url: Annotated[
        str,
        Setting(
            env="SCHEDULER_JWKS_URL",
            group="worker",
            meaning="keys to check the worker's own token with; empty checks nothing",
        ),
    ] = ""
    jwt_issuer: Annotated[
        str,
        Setting(env="SCHEDULER_JWT_ISSUER", group="worker", meaning="issuer it must name"),
    ] = ""
    jwt_audience: Annotated[
        str,
        Setting(env="SCHEDULER_JWT_AUDIENCE", group="worker", meaning="audience it must name"),
    ] = ""
    jwks_ttl_s: Annotated[
        float,
        Setting(
            env="SCHEDULER_JWKS_TTL_SECONDS",
            group="worker",
            meaning="seconds that fetched keys are good for",
            parse=parse_amount,
        ),
    ] = 300.0
    max_concurrency: Annotated[
        int,
        Setting(
            env="WORKER_MAX_CONCURRENCY",
            group="limits",
            meaning="requests a worker has at the same time; 0 is no limit",
            parse=parse_count,
        ),
    ] = 0
    merges_text: Annotated[
        bool,
        Setting(
            env="WORKER_MERGE_DELTAS",
            group="worker",
            meaning="whether streamed text that waits to be written is sent as one message",
        ),
    ] = True
    drain_timeout_s: Annotated[
        float,
        Setting(
            env="WORKER_DRAIN_TIMEOUT_SECONDS",
            group="worker",
            meaning="seconds that requests under way may take when the worker is to end",
            parse=parse_amount,
        ),
    ] = 0.0
    emit_residency_tier: Annotated[
        bool,
        Setting(
            env="COZY_EMIT_RESIDENCY_TIER",
            group="worker",
            meaning="whether signals about models say which memory they came to",
        ),
    ] = False
    ready_on_connect: Annotated[
        bool,
        Setting(
            env="WORKER_MODELS_READY_ON_CONNECT",
            group="worker",
            meaning="whether the event model.ready is sent after each connect",
        ),
    ] = False
    fake_gpu_count: Annotated[
        int,
        Setting(
            env="WORKER_FAKE_GPU_COUNT",
            group="worker",
            meaning="GPUs to report instead of those that are there; 0 reports those",
            parse=parse_count,
        ),
    ] = 0
    fake_gpu_memory_bytes: Annotated[
        int,
        Setting(
            env="WORKER_FAKE_GPU_MEMORY_BYTES",
            group="worker",
            meaning="memory of each GPU that is not there",
            parse=parse_count,
        ),
    ] = 24 * _GIB
    fake_gpu_name: Annotated[
        str,
        Setting(env="WORKER_FAKE_GPU_NAME", group="worker", meaning="what it is called"),
    ] = "FakeGPU"

    def policy(self) -> LinkPolicy:
        """Return how the worker connects.

        Raises:
            SettingsError: An address is not understood, or there is none.
        """
        from gen_worker.runtime.worker.addresses import seed_addresses

        return LinkPolicy(
            seeds=seed_addresses(self.address, self.more_addresses, use_tls=self.use_tls),
            backoff=Backoff(
                self.reconnect_delay_s, self.reconnect_max_delay_s, self.reconnect_jitter_s
            ),
            max_attempts=self.max_reconnect_attempts,
            register_timeout_s=self.register_timeout_s,
            disconnected_timeout_s=self.disconnected_timeout_s,
            silence_timeout_s=max(0.0, self.silence_timeout_s),
            follows_redirects=not self.lb_only_retries,
            use_tls=self.use_tls,
        )
