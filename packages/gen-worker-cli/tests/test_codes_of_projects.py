"""Every code of docs/error-codes.md that speaks of an author's project is produced by a mistake."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.discovery import build_lock, discover
from gen_worker.discovery.command import main as discovery_command
from gen_worker.dockerfile import plan_build
from gen_worker.endpoint.problems import DEFINITION_CODES
from gen_worker.manifest import load_lock
from gen_worker.problem_codes import DISCOVERY_CODES, LOCK_CODES, PROJECT_CODES
from gen_worker.problems import ProblemsError
from gen_worker.project import load_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gen_worker.problems import Problem

HEAD = 'schema_version = 1\nmain = "app"\n'
PROFILE = '[[build.profiles]]\nname = "cpu"\naccelerator = "none"\n'

TOML_MISTAKES: dict[str, str | bytes | None] = {
    "toml_missing": None,
    "toml_too_large": "#" * 300_000,
    "toml_encoding": b"\xff",
    "toml_syntax": "[",
    "control_character": HEAD + 'name = "a\\u0007b"\n',
    "unknown_key": HEAD + "colour = 1\n",
    "moved_key": HEAD + "[scaling]\n",
    "missing_key": 'main = "app"\n',
    "wrong_type": HEAD + "name = 3\n",
    "bad_value": 'schema_version = 1\nmain = "a/b.py"\n',
    "contradiction": HEAD + PROFILE + 'cuda_min = "12.4"\n',
    "empty_slug": HEAD + 'name = "!!"\n',
    "duplicate_profile": HEAD + PROFILE + PROFILE,
    "bad_ref": HEAD + '[models]\nasr = "nonsense"\n',
    "bad_attributes": HEAD + '[models]\nasr = { ref = "a/b", attributes = { dtype = [] } }\n',
}

PRELUDE = """
import msgspec
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal
from gen_worker import (
    Case, ConversionContext, ExpectedOutput, HFRepo, ModelRef, ModelRefSource, PromptRole, Repo,
    RequestContext, Resources, SharedBase, batched_inference, conversion, dispatch, inference,
    inference_function, invocable, training_function, worker_function,
)
from gen_worker.types import ProducedFlavor

class In(msgspec.Struct):
    text: str = ""
    quality: Literal["draft", "final"] = "draft"

class Out(msgspec.Struct):
    text: str = ""

"""
GOOD = "@inference_function\ndef good(ctx, payload: In) -> Out: ...\n"


def function(head: str, option: str = "", body: str = "...") -> str:
    return f"@inference_function({option})\n{head}: {body}\n"


def method(head: str, option: str = "", members: str = "", mark: str = "invocable") -> str:
    body = f"    @{mark}\n    {head}\n"
    return f"@inference({option})\nclass Built:\n    def setup(self): ...\n{members}{body}"


HANDLER = "def f(ctx, payload: In) -> Out"
METHOD = "def f(self, ctx, payload: In) -> Out: ..."
JOB = "def f(ctx: ConversionContext, source: {}) -> list[ProducedFlavor]: ..."

SOURCE_MISTAKES: dict[str, str] = {
    # decorators
    "not_a_function": "inference_function(3)",
    "not_a_class": "inference(3)",
    "decorated_twice": f"@inference_function\n{GOOD}",
    "unresolved_annotation": function("def f(ctx, payload: 'Nowhere') -> Out"),
    "context_missing": function("def f() -> Out"),
    "context_annotation": function("def f(ctx: int, payload: In) -> Out"),
    "payload_missing": function("def f(ctx) -> Out"),
    "payload_ambiguous": function("def f(ctx, a: In, b: In) -> Out"),
    "unbound_parameter": function("def f(ctx, payload: In, engine) -> Out"),
    "variadic_parameter": function("def f(ctx, payload: In, *more) -> Out"),
    "positional_only_parameter": function("def f(ctx, payload: In, /) -> Out"),
    "reserved_parameter": function("def f(ctx, payload: In, compute) -> Out"),
    "parameter_annotation": "@training_function(kind='quantization')\n" + JOB.format("str"),
    "source_missing": "@training_function(kind='quantization')\n"
    "def f(ctx: ConversionContext) -> list[ProducedFlavor]: ...",
    "reserved_field": "class R(msgspec.Struct):\n    o: str = msgspec.field(name='_models')\n"
    + function("def f(ctx, payload: R) -> Out"),
    "unknown_payload_field": function(HANDLER, "resources=Resources(vram_scales_with=('nope',))"),
    "invalid_models": function(HANDLER, "models={'engine': 'a/b'}"),
    "binding_mismatch": "class Odd:\n    slot_name = ''\n    dialect = 'binding'\n"
    "    is_per_call = False\n"
    "    def check(self, parameter, payload_type): raise ValueError('no')\n"
    "    def choose(self, *given): ...\n    def to_lock(self, *given): ...\n"
    "    def describe(self): ...\n"
    + function("def f(ctx, engine, payload: In) -> Out", "models={'engine': Odd()}"),
    "unknown_model_parameter": function(HANDLER, "models={'engine': Repo('a/b')}"),
    "bound_twice": function(
        "def f(ctx, e: Annotated[Any, ModelRef(ModelRefSource.FIXED, 'k')], payload: In) -> Out",
        "models={'e': Repo('a/b')}",
    ),
    "model_in_setup": "@inference(models={'e': dispatch('quality', "
    "{'draft': Repo('a/b'), 'final': Repo('a/c')})})\nclass Built:\n"
    f"    def setup(self, e): ...\n    @invocable\n    {METHOD}\n",
    "return_type": function("def f(ctx, payload: In) -> str"),
    "return_shape": function(HANDLER, body="yield Out()"),
    "async_not_allowed": "@conversion\nclass Built:\n    def setup(self): ...\n    @invocable\n"
    "    async def f(self, ctx, payload: In) -> list[ProducedFlavor]: ...\n",
    "not_a_stream": f"@batched_inference\nclass Built:\n    def setup(self): ...\n"
    f"    @batched_inference.function\n    {METHOD}\n",
    "invalid_option": function(HANDLER, "label=3"),
    "invalid_name": function(HANDLER, "name='!!'"),
    "duplicate_name": method(METHOD, "parametrize=[Case('a_b'), Case('A-B')]"),
    "invalid_resources": function(HANDLER, "resources=3"),
    "invalid_concurrency": function(HANDLER, "concurrency='often'"),
    "invalid_calibration": "@training_function(kind='quantization', calibration=3)\n"
    + JOB.format("Any"),
    "invalid_job_kind": "@training_function(kind=' ')\n" + JOB.format("Any"),
    "no_functions": "@inference\nclass Built:\n    def setup(self): ...\n",
    "constructor_arguments": method(METHOD, members="    def __init__(self, a): ...\n"),
    "invalid_hook": method(METHOD, members="    async def shutdown(self): ...\n"),
    "invalid_batching": method(METHOD, "max_batch=4"),
    "invalid_runtime": method(METHOD, "runtime='triton'"),
    "invalid_stage": method(
        METHOD, members="    @invocable.stage(gpu_class='huge')\n    def s(self): ...\n"
    ),
    "invalid_case": method(METHOD, "parametrize=[]"),
    # importing
    "package_missing": "import no_such_library",
    "module_missing": "import importlib\nimportlib.import_module(__name__ + '.nowhere')",
    "syntax_error": "def (",
    "import_fails": "1/0",
    "import_exits": "raise SystemExit",
    # functions
    "nothing_found": "x = 1",
    "duplicate_function": GOOD + "@inference_function(name='good')\n"
    "def other(ctx, payload: In) -> Out: ...\n",
    "return_missing": "@inference_function\ndef f(ctx, payload: In): ...\n",
    "prompt_role": "class P(msgspec.Struct):\n    a: Annotated[int, PromptRole('positive')] = 0\n"
    + function("def f(ctx, payload: P) -> Out"),
    "expected_output": "class O(msgspec.Struct):\n"
    "    text: Annotated[str, ExpectedOutput(width='input.nope')]\n"
    + function("def f(ctx, payload: In) -> O"),
}

# Problems that only writing the lock looks for, in a process of its own.
LOCK_MISTAKES: dict[str, str] = {
    "import_crashes": "import os\nos.abort()\n",
    "import_timeout": "while True: ...\n",
    "schema": "class S(msgspec.Struct):\n    x: complex = 0j\n"
    + function("def f(ctx, payload: S) -> Out"),
    "not_text": function(HANDLER, "description='\\udc80'"),
}


@pytest.fixture(autouse=True)
def _own_import_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the projects that a test imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("case_"):
            del sys.modules[name]


def codes(problems: tuple[Problem, ...]) -> list[str]:
    return [problem.code for problem in problems]


def refusal(action: Any, *given: Any, **options: Any) -> list[str]:
    with pytest.raises(ProblemsError) as caught:
        action(*given, **options)
    return codes(caught.value.problems)


def write_toml(root: Path, text: str | bytes, main: str = "app") -> Path:
    content = text if isinstance(text, bytes) else text.encode()
    (root / "endpoint.toml").write_bytes(content.replace(b'"app"', f'"{main}"'.encode()))
    return root


@pytest.mark.claims(
    "toml_missing",
    "toml_too_large",
    "toml_encoding",
    "toml_syntax",
    "control_character",
    "unknown_key",
    "moved_key",
    "missing_key",
    "wrong_type",
    "bad_value",
    "contradiction",
    "empty_slug",
    "duplicate_profile",
    "bad_ref",
    "bad_attributes",
)
@pytest.mark.parametrize("code", TOML_MISTAKES)
def test_mistakes_in_endpoint_toml(tmp_path: Path, code: str) -> None:
    text = TOML_MISTAKES[code]
    if text is not None:
        write_toml(tmp_path, text)
    assert code in refusal(load_project, tmp_path)


@pytest.mark.claims("toml_unreadable")
def test_a_toml_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "endpoint.toml").symlink_to("/dev/null")
    assert refusal(load_project, tmp_path) == ["toml_unreadable"]


@pytest.mark.claims("no_dockerfile")
def test_a_profile_that_says_too_little(tmp_path: Path) -> None:
    project = load_project(write_toml(tmp_path, HEAD + PROFILE))
    assert refusal(plan_build, project, project.profiles[0]) == ["no_dockerfile"]


@pytest.mark.claims(
    "not_a_function",
    "not_a_class",
    "decorated_twice",
    "unresolved_annotation",
    "context_missing",
    "context_annotation",
    "payload_missing",
    "payload_ambiguous",
    "unbound_parameter",
    "variadic_parameter",
    "positional_only_parameter",
    "reserved_parameter",
    "parameter_annotation",
    "source_missing",
    "reserved_field",
    "invalid_models",
    "binding_mismatch",
    "unknown_model_parameter",
    "bound_twice",
    "model_in_setup",
    "return_type",
    "return_shape",
    "async_not_allowed",
    "not_a_stream",
    "invalid_option",
    "invalid_name",
    "duplicate_name",
    "invalid_resources",
    "invalid_concurrency",
    "invalid_calibration",
    "invalid_job_kind",
    "no_functions",
    "constructor_arguments",
    "invalid_hook",
    "invalid_batching",
    "invalid_runtime",
    "invalid_stage",
    "invalid_case",
    "package_missing",
    "module_missing",
    "syntax_error",
    "import_fails",
    "import_exits",
    "nothing_found",
    "duplicate_function",
    "return_missing",
    "prompt_role",
    "expected_output",
)
@pytest.mark.parametrize("code", SOURCE_MISTAKES)
def test_mistakes_in_code(tmp_path: Path, code: str) -> None:
    source = SOURCE_MISTAKES[code]
    prelude = "" if code == "syntax_error" else PRELUDE
    (tmp_path / f"case_{code}.py").write_text(prelude + source)
    assert code in codes(discover(tmp_path, f"case_{code}").problems)


@pytest.mark.claims("main_missing", "module_shadowed")
def test_mistakes_in_main(tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text(PRELUDE + GOOD)
    assert codes(discover(tmp_path, "case_nowhere").problems) == ["main_missing"]
    assert "module_shadowed" in codes(discover(tmp_path, "queue").problems)


@pytest.mark.claims("import_crashes", "import_timeout", "schema", "not_text")
@pytest.mark.parametrize("code", LOCK_MISTAKES)
def test_mistakes_that_the_lock_shows(tmp_path: Path, code: str) -> None:
    (tmp_path / f"case_{code}.py").write_text(PRELUDE + LOCK_MISTAKES[code])
    project = load_project(write_toml(tmp_path, HEAD, f"case_{code}"))
    patience_s = 1.0 if code == "import_timeout" else 30.0
    assert code in refusal(build_lock, project, timeout_s=patience_s)


@pytest.mark.claims(
    "unknown_function", "unknown_payload_field", "model_key_missing", "model_keyspace_missing"
)
def test_functions_against_the_toml(tmp_path: Path) -> None:
    source = (
        "@worker_function()\n"
        "def f(ctx: RequestContext,\n"
        "      a: Annotated[Any, ModelRef(ModelRefSource.FIXED, 'asr')],\n"
        "      b: Annotated[Any, ModelRef(ModelRefSource.PAYLOAD, 'text')],\n"
        "      payload: In) -> Out: ...\n"
    )
    (tmp_path / "case_toml.py").write_text(PRELUDE + source)
    toml = HEAD + '[functions.nobody]\n[functions.f]\nbatch_dimension = "nope"\n'
    project = load_project(write_toml(tmp_path, toml, "case_toml"))
    assert set(refusal(build_lock, project)) == {
        "unknown_function",
        "unknown_payload_field",
        "model_key_missing",
        "model_keyspace_missing",
    }


@pytest.mark.claims("lock_missing", "lock_invalid", "lock_version")
@pytest.mark.parametrize(
    ("text", "code"),
    [(None, "lock_missing"), ("[", "lock_invalid"), ("lock_version = 99", "lock_version")],
)
def test_locks_that_cannot_be_read(tmp_path: Path, text: str | None, code: str) -> None:
    path = tmp_path / "endpoint.lock"
    if text is not None:
        path.write_text(text)
    assert refusal(load_lock, path) == [code]


@pytest.mark.claims("failed")
def test_a_lock_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "case_write.py").write_text(PRELUDE + GOOD)
    write_toml(tmp_path, HEAD, "case_write")
    place = str(tmp_path / "case_write.py" / "below" / "a" / "file")
    assert discovery_command(["--root", str(tmp_path), "-o", place]) == 1
    assert "[failed]" in capsys.readouterr().err


def test_no_code_is_left_out() -> None:
    tested = {
        *TOML_MISTAKES,
        *SOURCE_MISTAKES,
        *LOCK_MISTAKES,
        *("toml_unreadable", "no_dockerfile", "main_missing", "module_shadowed"),
        *("unknown_function", "model_key_missing", "model_keyspace_missing"),
        *("lock_missing", "lock_invalid", "lock_version", "failed"),
    }
    assert tested == {*PROJECT_CODES, *DISCOVERY_CODES, *LOCK_CODES, *DEFINITION_CODES}
