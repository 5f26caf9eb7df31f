"""The samples of docs/testing.md run as they are printed."""

import re
from pathlib import Path
from typing import Any

import pytest

from gen_worker.testing.pool import Pool

pytest_plugins = ["gen_worker.testing.fixtures"]

ROOT = Path(__file__).parents[3]


@pytest.fixture
def samples(tmp_path: Path) -> dict[str, Any]:
    """Return what the page's Python defines, run in one module as a reader would have it."""
    page = (ROOT / "docs" / "testing.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {"__name__": "samples"}
    exec(compile("\n".join(blocks), "docs/testing.md", "exec"), names)
    return names


def test_an_endpoint_is_tested(samples: dict[str, Any]) -> None:
    samples["test_shout"]()


def test_a_worker_is_tested(
    samples: dict[str, Any], worker_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    samples["test_a_lost_result_is_sent_again"](worker_pool)


def test_a_killed_worker_is_tested(
    samples: dict[str, Any], worker_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    samples["test_a_killed_worker"](worker_pool)


@pytest.mark.parametrize(
    "name",
    ["test_a_request_outlives_its_worker", "test_a_client_forgets_what_a_lost_worker_said"],
)
def test_a_platform_is_tested(samples: dict[str, Any], name: str) -> None:
    samples[name]()
