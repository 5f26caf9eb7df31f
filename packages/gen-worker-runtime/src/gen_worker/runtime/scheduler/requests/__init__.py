"""Requests that have not ended: whose turn it is, what they produce, and how each ends once."""

from __future__ import annotations

from gen_worker.runtime.scheduler.requests.live import Live, Runner, Watcher
from gen_worker.runtime.scheduler.requests.options import RequestOptions
from gen_worker.runtime.scheduler.requests.policy import RetryPolicy
from gen_worker.runtime.scheduler.requests.requests import Requests

__all__ = ["Live", "RequestOptions", "Requests", "RetryPolicy", "Runner", "Watcher"]
