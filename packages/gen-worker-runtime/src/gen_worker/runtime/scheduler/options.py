"""What the settings mean to the parts of a scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from gen_worker.errors import SettingsError
from gen_worker.runtime.http.listener import parse_http_address
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.runtime.scheduler.requests import RequestOptions, RetryPolicy
from gen_worker.runtime.scheduler.retention import Keeping
from gen_worker.runtime.scheduler.waiting import WaitingLimits
from gen_worker.runtime.scheduler.webhooks import WebhookOptions

if TYPE_CHECKING:
    import grpc

    from gen_worker.runtime.scheduler.dispatcher import DispatchOptions
    from gen_worker.runtime.scheduler.settings import SchedulerSettings

__all__ = [
    "certificate",
    "dispatch_options",
    "http_address",
    "is_open",
    "keeping",
    "request_options",
    "webhook_options",
    "worker_token_ttl_s",
]

_DAY_S = 86_400.0


def http_address(settings: SchedulerSettings) -> TcpAddress:
    """Return where clients are served.

    Raises:
        SettingsError: It is no host:port.
    """
    address = parse_http_address(settings.http)
    if not isinstance(address, TcpAddress):
        raise SettingsError((f"{settings.http!r} is no host:port: workers fetch files there",))
    return address


def is_open(settings: SchedulerSettings, address: TcpAddress) -> bool:
    """Whether whoever can connect to the address may do everything."""
    return settings.requires_tokens == "never" or (
        settings.requires_tokens == "auto" and address.is_private and not settings.token
    )


def keeping(settings: SchedulerSettings) -> Keeping:
    """Return how long requests that have ended can be asked for."""
    return Keeping(
        keep_s=settings.keep_days * _DAY_S,
        max_requests=settings.keep_requests,
        max_bytes=settings.keep_bytes,
    )


def request_options(settings: SchedulerSettings) -> RequestOptions:
    """Return how many requests may wait, and how often one is tried."""
    waiting = WaitingLimits(
        max_requests=settings.max_waiting,
        max_per_function=settings.max_waiting_per_function,
        max_per_owner=settings.max_waiting_per_owner,
    )
    retries = RetryPolicy(
        max_attempts=settings.max_attempts,
        max_lost=settings.max_lost,
        first_delay_s=settings.retry_delay_s,
        max_delay_s=settings.retry_max_delay_s,
    )
    return RequestOptions(waiting=waiting, retries=retries, cancel_grace_s=settings.cancel_grace_s)


def dispatch_options(settings: SchedulerSettings, others: DispatchOptions) -> DispatchOptions:
    """Return how requests are given to workers; what the settings do not say is as in `others`.

    Raises:
        SettingsError: A limit of a function is not understood.
    """
    return replace(
        others,
        max_running=settings.running_limits,
        lost_after_s=settings.lost_after_s,
        mute_grace_s=settings.mute_grace_s,
        mute_after_s=settings.mute_after_s,
    )


def webhook_options(settings: SchedulerSettings, is_open: bool) -> WebhookOptions:
    """Return where webhooks may lead.

    Args:
        settings: Trust some addresses.
        is_open: Whether whoever can connect may do everything, and so reach them anyway.
    """
    return WebhookOptions(allow_private=is_open, trusted=settings.webhook_urls)


def worker_token_ttl_s(settings: SchedulerSettings) -> float:
    """Return how many seconds the token of a worker is good for connecting."""
    return settings.worker_token_days * _DAY_S


def certificate(settings: SchedulerSettings) -> grpc.ServerCredentials | None:
    """Return what workers are shown; None where connections are not encrypted.

    Raises:
        SettingsError: One half of it is missing, or cannot be read.
    """
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise SettingsError(
            (
                "a certificate needs its key: set both GEN_WORKER_SCHEDULER_TLS_CERTIFICATE and "
                "GEN_WORKER_SCHEDULER_TLS_KEY",
            )
        )
    if not settings.tls_certificate:
        return None
    import grpc

    try:
        with open(settings.tls_key, "rb") as key, open(settings.tls_certificate, "rb") as chain:
            return grpc.ssl_server_credentials([(key.read(), chain.read())])
    except OSError as error:
        raise SettingsError((f"the certificate cannot be read: {error}",)) from error
