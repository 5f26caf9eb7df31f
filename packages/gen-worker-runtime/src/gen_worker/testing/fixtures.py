"""A pytest plugin: `pytest_plugins = ["gen_worker.testing.fixtures"]` in a conftest.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gen_worker.testing.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.testing.pool import Pool

__all__ = ["virtual_clock", "worker_pool"]


@pytest.fixture
def worker_pool() -> Iterator[Pool]:
    """An orchestrator without workers; add them. Closed with all of them after the test."""
    from gen_worker.testing.pool import Pool

    with Pool() as pool:
        yield pool


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """Time that moves when the test says so; for an `EndpointTester` or a worker."""
    return VirtualClock()
