"""HTTP: one application for every host, and the server it runs on (uvicorn, uvloop, httptools)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.http.app import HttpApp
    from gen_worker.runtime.http.backend import (
        Backend,
        DirectCalls,
        FileRoom,
        Handle,
        Health,
        ModelRoom,
        ServedFunction,
        Target,
    )
    from gen_worker.runtime.http.credentials import (
        EVERYBODY,
        Credentials,
        OneToken,
        Principal,
        Scope,
    )
    from gen_worker.runtime.http.jobs import HookWish, Job, Jobs, Reader, Wishes
    from gen_worker.runtime.http.listener import open_listener, parse_http_address, url_of
    from gen_worker.runtime.http.local import LocalBackend, LocalFileRoom
    from gen_worker.runtime.http.local_files import open_local_files
    from gen_worker.runtime.http.local_models import LocalModelRoom
    from gen_worker.runtime.http.memory_jobs import JobLimits, MemoryJobs
    from gen_worker.runtime.http.openapi import in_query, openapi_of, operation
    from gen_worker.runtime.http.options import HttpOptions
    from gen_worker.runtime.http.server import HttpServer
    from gen_worker.runtime.http.serving import serve_app
    from gen_worker.runtime.http.table import HttpCall, HttpRoute

# Loaded at first use: a hub that listens needs no engine, and a worker's metrics no routes.
_MODULES = {
    "app": ("HttpApp",),
    "backend": (
        "Backend",
        "DirectCalls",
        "FileRoom",
        "Handle",
        "Health",
        "ModelRoom",
        "ServedFunction",
        "Target",
    ),
    "credentials": ("EVERYBODY", "Credentials", "OneToken", "Principal", "Scope"),
    "jobs": ("HookWish", "Job", "Jobs", "Reader", "Wishes"),
    "listener": ("open_listener", "parse_http_address", "url_of"),
    "local": ("LocalBackend", "LocalFileRoom"),
    "local_files": ("open_local_files",),
    "local_models": ("LocalModelRoom",),
    "memory_jobs": ("JobLimits", "MemoryJobs"),
    "openapi": ("in_query", "openapi_of", "operation"),
    "options": ("HttpOptions",),
    "server": ("HttpServer",),
    "serving": ("serve_app",),
    "table": ("HttpCall", "HttpRoute"),
}

__all__ = [  # noqa: RUF022  # in the order of the table
    "HttpApp",
    "Backend",
    "DirectCalls",
    "FileRoom",
    "Handle",
    "Health",
    "ModelRoom",
    "ServedFunction",
    "Target",
    "EVERYBODY",
    "Credentials",
    "OneToken",
    "Principal",
    "Scope",
    "HookWish",
    "Job",
    "Jobs",
    "Reader",
    "Wishes",
    "open_listener",
    "parse_http_address",
    "url_of",
    "LocalBackend",
    "LocalFileRoom",
    "open_local_files",
    "LocalModelRoom",
    "JobLimits",
    "MemoryJobs",
    "in_query",
    "openapi_of",
    "operation",
    "HttpOptions",
    "HttpServer",
    "serve_app",
    "HttpCall",
    "HttpRoute",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
