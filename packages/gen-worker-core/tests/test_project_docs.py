"""What the pages about endpoint.toml and endpoint.lock promise is what the code does."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gen_worker import problem_codes
from gen_worker.manifest import LockedFunction, Manifest
from gen_worker.project import Profile, ResourceLimits, load_project
from gen_worker.project.json_schema import endpoint_toml_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[3] / "docs"
SOURCES = Path(__file__).parents[1] / "src" / "gen_worker"
TOML_PAGE = (DOCS / "endpoint-toml.md").read_text()
LOCK_PAGE = (DOCS / "endpoint-lock.md").read_text()


def codes_in(page: str) -> dict[str, str]:
    table = page.split("## Codes")[1]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))


def test_every_code_is_documented_in_the_words_of_the_source() -> None:
    assert codes_in(TOML_PAGE) == dict(problem_codes.PROJECT_CODES)
    assert codes_in(LOCK_PAGE) == {**problem_codes.DISCOVERY_CODES, **problem_codes.LOCK_CODES}


def codes_used() -> Iterator[str]:
    """Yield what the sources pass as a code: `code=` or a text that names a known one."""
    known = {
        *problem_codes.PROJECT_CODES,
        *problem_codes.DISCOVERY_CODES,
        *problem_codes.LOCK_CODES,
    }
    paths = [*(SOURCES / "project").glob("*.py"), *(SOURCES / "discovery").glob("*.py")]
    for path in [*paths, SOURCES / "manifest.py", SOURCES / "dockerfile.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "code":
                if isinstance(node.value, ast.Constant):
                    yield str(node.value.value)
            elif isinstance(node, ast.Constant) and node.value in known:
                yield str(node.value)


def test_every_code_is_used_and_every_used_code_is_listed() -> None:
    assert set(codes_used()) == {
        *problem_codes.PROJECT_CODES,
        *problem_codes.DISCOVERY_CODES,
        *problem_codes.LOCK_CODES,
    }


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", TOML_PAGE, re.DOTALL))
def test_every_example_is_accepted(tmp_path: Path, text: str) -> None:
    (tmp_path / "endpoint.toml").write_text(text)
    assert load_project(tmp_path).main


@pytest.mark.parametrize("record", [Profile, ResourceLimits])
def test_every_key_is_described(record: type[Profile] | type[ResourceLimits]) -> None:
    for key in record.__struct_fields__:
        assert f"`{key}`" in TOML_PAGE


def test_every_key_of_a_lock_is_described() -> None:
    for key in {*Manifest.__struct_fields__, *LockedFunction.__struct_fields__}:
        assert f"`{key}`" in LOCK_PAGE, key


def test_the_published_schema_is_current() -> None:
    published = json.loads((DOCS / "endpoint-toml.schema.json").read_text())
    assert published == endpoint_toml_schema(), (
        "run `python -m gen_worker.project.json_schema > docs/endpoint-toml.schema.json`"
    )


def test_the_schema_describes_every_key() -> None:
    schema = endpoint_toml_schema()
    records = [schema, *(schema["$defs"][name] for name in ("Profile", "ResourceLimits"))]
    for record in records:
        for key, field in record["properties"].items():
            assert "$ref" in field or field["description"], key
            assert {"type": "null"} not in field.get("anyOf", ())


def test_every_code_is_provoked_by_a_test() -> None:
    tests = "".join(
        path.read_text()
        for pattern in (
            "test_project.py",
            "test_discovery*.py",
            "test_manifest*.py",
            "test_docker*",
        )
        for path in Path(__file__).parent.glob(pattern)
    )
    listed = {
        *problem_codes.PROJECT_CODES,
        *problem_codes.DISCOVERY_CODES,
        *problem_codes.LOCK_CODES,
    }
    assert [code for code in listed if not re.search(rf'["\[]{code}["\]]', tests)] == []
