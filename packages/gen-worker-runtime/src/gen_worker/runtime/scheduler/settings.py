"""What an operator may say about the scheduler."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from gen_worker.errors import SettingsError
from gen_worker.settings import Setting, SettingsRecord
from gen_worker.settings_values import parse_amount, parse_count, parse_positive

__all__ = ["SchedulerSettings"]

_GIB = 1024**3


class SchedulerSettings(SettingsRecord, frozen=True, kw_only=True):
    """Addresses, data, limits and patience. Limits of 0 are off where nothing else is said."""

    data_dir: Annotated[
        str,
        Setting(
            env="GEN_WORKER_DATA_DIR",
            group="scheduler",
            meaning="folder of the scheduler's requests, releases, files and keys; empty is "
            "`gen-worker` in XDG_DATA_HOME",
        ),
    ] = ""
    data_home: Annotated[
        str,
        Setting(
            env="XDG_DATA_HOME",
            group="scheduler",
            meaning="where programs keep a user's data",
        ),
    ] = "~/.local/share"
    http: Annotated[
        str,
        Setting(
            env="GEN_WORKER_SCHEDULER_HTTP",
            group="scheduler",
            meaning="host:port that the HTTP API and the files of workers are served on",
        ),
    ] = "127.0.0.1:8787"
    workers: Annotated[
        str,
        Setting(
            env="GEN_WORKER_SCHEDULER_WORKERS",
            group="scheduler",
            meaning="host:port that workers connect to",
        ),
    ] = "127.0.0.1:8788"
    public_url: Annotated[
        str,
        Setting(
            env="GEN_WORKER_SCHEDULER_PUBLIC_URL",
            group="scheduler",
            meaning="URL under which others reach the HTTP API; empty makes it of the address",
        ),
    ] = ""
    public_workers: Annotated[
        str,
        Setting(
            env="GEN_WORKER_SCHEDULER_PUBLIC_WORKERS",
            group="scheduler",
            meaning="host:port, or a URL with grpc or grpcs, under which workers reach the "
            "scheduler; empty is the address",
        ),
    ] = ""
    token: Annotated[
        str,
        Setting(
            env="GEN_WORKER_SCHEDULER_TOKEN",
            group="scheduler",
            meaning="token that may do everything, besides those of `scheduler tokens`",
            is_secret=True,
        ),
    ] = ""
    worker_token: Annotated[
        str,
        Setting(
            env="GEN_WORKER_SCHEDULER_WORKER_TOKEN",
            group="scheduler",
            meaning="token that may only start workers, for `gen-worker worker`",
            is_secret=True,
        ),
    ] = ""
    requires_tokens: Annotated[
        Literal["auto", "always", "never"],
        Setting(
            env="GEN_WORKER_SCHEDULER_REQUIRES_TOKENS",
            group="scheduler",
            meaning="whether callers need a token: always, never (which others could use, too), "
            "or auto: when other machines can connect, or GEN_WORKER_SCHEDULER_TOKEN is set",
        ),
    ] = "auto"
    tls_certificate: Annotated[
        str,
        Setting(
            env="GEN_WORKER_SCHEDULER_TLS_CERTIFICATE",
            group="scheduler",
            meaning="PEM file of the certificate that workers are shown, with its chain",
            parse=os.path.expanduser,
        ),
    ] = ""
    tls_key: Annotated[
        str,
        Setting(
            env="GEN_WORKER_SCHEDULER_TLS_KEY",
            group="scheduler",
            meaning="PEM file of the key of that certificate",
            parse=os.path.expanduser,
        ),
    ] = ""
    keep_days: Annotated[
        float,
        Setting(
            env="GEN_WORKER_SCHEDULER_KEEP_DAYS",
            group="scheduler",
            meaning="days that requests that have ended and their files can be asked for",
            parse=parse_amount,
        ),
    ] = 7.0
    keep_requests: Annotated[
        int,
        Setting(
            env="GEN_WORKER_SCHEDULER_KEEP_REQUESTS",
            group="scheduler",
            meaning="how many of them are kept at most; the oldest are forgotten first",
            parse=parse_count,
        ),
    ] = 100_000
    keep_bytes: Annotated[
        int,
        Setting(
            env="GEN_WORKER_SCHEDULER_KEEP_BYTES",
            group="scheduler",
            meaning="bytes of their payloads and events that are kept at most, without files",
            parse=parse_count,
        ),
    ] = 4 * _GIB
    max_waiting: Annotated[
        int,
        Setting(
            env="GEN_WORKER_SCHEDULER_MAX_WAITING",
            group="scheduler",
            meaning="requests that may wait; more are refused with 429",
            parse=parse_positive,
        ),
    ] = 200_000
    max_waiting_per_function: Annotated[
        int,
        Setting(
            env="GEN_WORKER_SCHEDULER_MAX_WAITING_PER_FUNCTION",
            group="scheduler",
            meaning="how many of them of one function",
            parse=parse_positive,
        ),
    ] = 100_000
    max_waiting_per_owner: Annotated[
        int,
        Setting(
            env="GEN_WORKER_SCHEDULER_MAX_WAITING_PER_OWNER",
            group="scheduler",
            meaning="how many of them of one owner in one function",
            parse=parse_positive,
        ),
    ] = 50_000
    max_running: Annotated[
        tuple[str, ...],
        Setting(
            env="GEN_WORKER_SCHEDULER_MAX_RUNNING",
            group="scheduler",
            meaning="how many requests of a function run at the same time on all workers, as "
            "`[[owner/]endpoint/]function=number`, separated by commas",
        ),
    ] = ()
    max_payload_bytes: Annotated[
        int,
        Setting(
            env="GEN_WORKER_SCHEDULER_MAX_PAYLOAD_BYTES",
            group="scheduler",
            meaning="largest payload of a request in bytes; larger inputs are uploaded as files",
            parse=parse_positive,
        ),
    ] = 16 * 1024**2
    max_upload_bytes: Annotated[
        int,
        Setting(
            env="GEN_WORKER_SCHEDULER_MAX_UPLOAD_BYTES",
            group="scheduler",
            meaning="largest body of a request to the HTTP API, such as an uploaded file, in bytes",
            parse=parse_positive,
        ),
    ] = 256 * 1024**2
    max_attempts: Annotated[
        int,
        Setting(
            env="GEN_WORKER_SCHEDULER_MAX_ATTEMPTS",
            group="scheduler",
            meaning="how often a request is tried that fails in a way that may pass",
            parse=parse_positive,
        ),
    ] = 3
    max_lost: Annotated[
        int,
        Setting(
            env="GEN_WORKER_SCHEDULER_MAX_LOST",
            group="scheduler",
            meaning="how many workers may be lost with a request before it fails",
            parse=parse_positive,
        ),
    ] = 3
    retry_delay_s: Annotated[
        float,
        Setting(
            env="GEN_WORKER_SCHEDULER_RETRY_DELAY_S",
            group="scheduler",
            meaning="seconds before a request is tried again; doubles with each failure",
            parse=parse_amount,
        ),
    ] = 0.5
    retry_max_delay_s: Annotated[
        float,
        Setting(
            env="GEN_WORKER_SCHEDULER_RETRY_MAX_DELAY_S",
            group="scheduler",
            meaning="seconds between two attempts at most",
            parse=parse_amount,
        ),
    ] = 30.0
    lost_after_s: Annotated[
        float,
        Setting(
            env="GEN_WORKER_SCHEDULER_LOST_AFTER_S",
            group="scheduler",
            meaning="seconds without a connection after which the requests of a worker are given "
            "to others",
            parse=parse_amount,
        ),
    ] = 30.0
    mute_grace_s: Annotated[
        float,
        Setting(
            env="GEN_WORKER_SCHEDULER_MUTE_GRACE_S",
            group="scheduler",
            meaning="seconds beyond a function's timeout, for its models to be loaded and more, "
            "after which a request counts as lost of which its worker, though connected, says "
            "nothing; 0: never",
            parse=parse_amount,
        ),
    ] = 600.0
    mute_after_s: Annotated[
        float,
        Setting(
            env="GEN_WORKER_SCHEDULER_MUTE_AFTER_S",
            group="scheduler",
            meaning="seconds without progress or output after which a request of a function "
            "without a timeout counts as lost; 0: never",
            parse=parse_amount,
        ),
    ] = 86_400.0
    cancel_grace_s: Annotated[
        float,
        Setting(
            env="GEN_WORKER_SCHEDULER_CANCEL_GRACE_S",
            group="scheduler",
            meaning="seconds that a worker may take to stop a canceled request",
            parse=parse_amount,
        ),
    ] = 5.0
    drain_s: Annotated[
        float,
        Setting(
            env="GEN_WORKER_SCHEDULER_DRAIN_S",
            group="scheduler",
            meaning="seconds that answers under way may take when the scheduler is stopped; "
            "requests go on all the same",
            parse=parse_amount,
        ),
    ] = 5.0
    webhook_urls: Annotated[
        tuple[str, ...],
        Setting(
            env="GEN_WORKER_SCHEDULER_WEBHOOK_URLS",
            group="scheduler",
            meaning="URLs whose origins webhooks may lead to though their addresses are private, "
            "separated by commas; where callers need no token, all may",
        ),
    ] = ()
    worker_token_days: Annotated[
        float,
        Setting(
            env="GEN_WORKER_SCHEDULER_WORKER_TOKEN_DAYS",
            group="scheduler",
            meaning="days that the token of a worker is good for connecting",
            parse=parse_amount,
        ),
    ] = 30.0

    @property
    def folder(self) -> str:
        """The data folder, as an absolute path."""
        named = self.data_dir or os.path.join(self.data_home, "gen-worker")
        return os.path.abspath(os.path.expanduser(named))

    @property
    def running_limits(self) -> dict[str, int]:
        """How many requests of a function may run at the same time.

        Raises:
            SettingsError: One of them is not understood.
        """
        limits, problems = {}, []
        for text in self.max_running:
            name, _, number = text.rpartition("=")
            if not name.strip() or not number.strip().isdecimal() or int(number) < 1:
                problems.append(
                    f"GEN_WORKER_SCHEDULER_MAX_RUNNING: {text!r} is no limit: write function=number"
                )
            else:
                limits[name.strip()] = int(number)
        if problems:
            raise SettingsError(tuple(problems))
        return limits
