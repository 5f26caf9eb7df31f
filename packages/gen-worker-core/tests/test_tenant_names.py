from __future__ import annotations

import pytest

from gen_worker.tenant_names import tenant_name_problem


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "LANG", "WORKER_ID", "HF_TOKEN", "LC_ALL", "PYTHONPATH", "LD_PRELOAD"]
)
def test_names_of_the_platform_cannot_be_given_to_an_endpoint(name: str) -> None:
    problem = tenant_name_problem(name)
    assert problem is not None
    assert "is reserved" in problem


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "Ä", "A=B", "A\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    problem = tenant_name_problem(name)
    assert problem is not None
    assert "no name of an environment variable" in problem


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "MY_PATH", "_X", "LANGUAGE", "a1"])
def test_other_names_are_free(name: str) -> None:
    assert tenant_name_problem(name) is None
