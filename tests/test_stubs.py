"""Type checkers see the root that Python sees."""

from ci.stubs import disagreements, typed_imports

ROOT_SOURCE = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from gen_worker.types import Asset as Asset
    from gen_worker.errors import WorkerError as WorkerError
"""
TABLE = {"Asset": "gen_worker.types", "WorkerError": "gen_worker.errors"}


def test_a_table_and_imports_that_agree_are_no_problem() -> None:
    assert disagreements(TABLE, typed_imports(ROOT_SOURCE)) == []


def test_a_name_from_another_module_is_reported() -> None:
    (problem,) = disagreements({**TABLE, "Asset": "gen_worker.io"}, typed_imports(ROOT_SOURCE))
    assert "gen_worker.types import Asset" in problem
    assert "gen_worker.io import Asset" in problem


def test_a_name_that_only_type_checkers_see_is_reported() -> None:
    (problem,) = disagreements({"Asset": TABLE["Asset"]}, typed_imports(ROOT_SOURCE))
    assert problem.endswith("_EXPORTS says `nothing`")


def test_a_name_that_only_python_sees_is_reported() -> None:
    table = {**TABLE, "ValidationError": "gen_worker.errors"}
    (problem,) = disagreements(table, typed_imports(ROOT_SOURCE))
    assert problem.startswith("type checkers do not see 'ValidationError'")


def test_a_name_of_a_later_release_may_wait_in_the_table() -> None:
    table = {**TABLE, "not_there_yet": "gen_worker.not_there_yet"}
    assert disagreements(table, typed_imports(ROOT_SOURCE)) == []
