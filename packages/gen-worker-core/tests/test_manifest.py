"""endpoint.lock: complete, deterministic, readable again."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_worker.discovery import (
    DiscoveryError,
    discover_functions,
    discover_manifest,
    validate_endpoint_lock,
)
from gen_worker.discovery.lock import as_toml_table
from gen_worker.manifest import (
    LockedFunction,
    LockError,
    Manifest,
    content_sha256,
    default_lock_path,
    dump_lock,
    load_lock,
    manifest_of,
    parse_lock,
    write_lock,
)
from gen_worker.schema import schema_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    WriteProject = Callable[[Mapping[str, str]], Path]

BINDINGS = '''
class Model:
    """A stand-in for `Repo` and `ModelRef`."""
    def __init__(self, row, dialect="binding", is_per_call=False):
        self.row, self.dialect, self.is_per_call = row, dialect, is_per_call
        self.slot_name = ""
    def check(self, parameter, payload_type): ...
    def choose(self, parameter, payload, override): return {}
    def to_lock(self, parameter, annotation): return {"param": parameter, **self.row}
    def describe(self): return {}

def model_ref(source, key):
    row = {"model_ref": {"source": source, "key": key, "dtypes": []}, "type": "any"}
    return Model(row, "injection", source != "fixed")
'''
APP = """
import msgspec
from typing import Annotated, Any, AsyncIterator, Literal
from gen_worker import (
    Clamp, ExpectedOutput, ImageAsset, PositivePrompt, RequestContext, ResourceRequirements,
    Resources, inference, inference_function, invocable, training_function, worker_function,
)
from painter.bindings import Model, model_ref

class Ask(msgspec.Struct):
    prompt: PositivePrompt
    steps: Annotated[int, Clamp(1, 50)] = 20
    mode: Literal["fast", None] = None
    pictures: list[ImageAsset] = []

class Reply(msgspec.Struct):
    image: Annotated[ImageAsset, ExpectedOutput(count="input.steps", width=512)]

class Piece(msgspec.Struct):
    text: str
"""
FULL = (
    APP
    + """
@inference_function(
    label="Paint", description="Paints.", timeout_ms=5000, rate_limit_per_invoker=2,
    resources=Resources(min_vram_gb=10, vram_scales_with=("steps",)),
    models={"engine": Model({"kind": "fixed", "ref": "acme/painter", "flavor": None})},
)
def paint(ctx, engine, ask: Ask) -> Reply: ...

@inference(label="Speaks", description="Class text.", allowed_shapes=[(512, 768)],
           prefer_distilled=True, batch_window_ms=2.5, max_batch=8,
           models={"core": Model({"kind": "fixed", "ref": "acme/tts"})})
class Speaker:
    def setup(self, core): ...
    @invocable(name="say")
    def speak(self, ctx, ask: Ask) -> Piece: ...
    @inference.stage(name="Warm Up", gpu_class="small")
    def first(self): ...

@inference(runtime="vllm")
class Streamer:
    async def setup(self, engine): ...
    @invocable
    async def stream(self, ctx, ask: Ask) -> AsyncIterator[Piece]:
        yield Piece("")
"""
)
TOML = """
schema_version = 1
main = "painter.app"
name = "My Painter"

[[build.profiles]]
name = "gpu"
accelerator = "cuda"
cuda_min = "12.4"

[resources]
vram_gb = 12

[host.requirements]
cuda = ">=12.4"
"""


def project(write_project: WriteProject, app: str, toml: str = TOML) -> Path:
    return write_project(
        {
            "painter/__init__.py": "",
            "painter/app.py": app,
            "painter/bindings.py": BINDINGS,
            "endpoint.toml": toml,
        }
    )


def test_everything_declared_is_written(write_project: WriteProject) -> None:
    lock = discover_manifest(project(write_project, FULL))
    paint, say, stream = lock["functions"]
    assert {key: paint[key] for key in paint if not key.endswith(("schema", "sha256"))} == {
        "name": "paint",
        "python_name": "paint",
        "module": "painter.app",
        "kind": "inference",
        "decorator": "inference_function",
        "label": "Paint",
        "description": "Paints.",
        "resources": {"min_vram_gb": 10.0, "vram_scales_with": ["steps"]},
        "bindings": {"engine": {"param": "engine", "kind": "fixed", "ref": "acme/painter"}},
        "payload_type": {"module": "painter.app", "qualname": "Ask"},
        "output_type": {"module": "painter.app", "qualname": "Reply"},
        "output_mode": "single",
        "incremental_output": False,
        "is_async": False,
        "moderation": {
            "prompts": [{"field": "prompt", "role": "positive"}],
            "media": [{"field": "pictures[]", "kind": "image"}],
        },
        "expected_outputs": [
            {"field": "image", "type": "image", "count": "input.steps", "width": 512}
        ],
        "timeout_ms": 5000,
        "rate_limit_per_invoker": 2,
    }
    steps = paint["input_schema"]["properties"]["steps"]
    assert (steps["minimum"], steps["maximum"]) == (1, 50)
    assert {key: say[key] for key in say if not key.endswith(("schema", "sha256", "_type"))} == {
        "name": "say",
        "python_name": "speak",
        "registered_name": "say",
        "module": "painter",
        "declared_module": "painter.app",
        "class_name": "Speaker",
        "archetype": "SerialWorker",
        "kind": "inference",
        "decorator": "@inference.function",
        "label": "Speaks",
        "description": "Class text.",
        "prefer_distilled": True,
        "stages": [{"python_name": "first", "name": "warm-up", "gpu_class": "small"}],
        "bindings": {"core": {"param": "core", "kind": "fixed", "ref": "acme/tts"}},
        "output_mode": "single",
        "incremental_output": False,
        "is_async": False,
        "moderation": paint["moderation"],
        "allowed_shapes": [[512, 768]],
        "batch_window_ms": 2.5,
        "max_batch": 8,
    }
    assert (stream["archetype"], stream["runtime"]) == ("BatchedWorker", "vllm")
    assert (stream["output_mode"], stream["incremental_output"]) == ("incremental", True)
    assert stream["delta_type"] == {"module": "painter.app", "qualname": "Piece"}
    assert stream["delta_output_schema"]["properties"] == {"text": {"type": "string"}}
    assert "output_schema" not in stream


def test_the_root_of_a_lock(write_project: WriteProject) -> None:
    lock = discover_manifest(project(write_project, FULL))
    assert lock["lock_version"] == 1
    assert lock["endpoint_name"] == "my-painter"
    assert lock["profiles"] == [
        {
            "name": "gpu",
            "accelerator": "cuda",
            "cuda_min": "12.4",
            "cpu_arch": "x86",
            "os": "linux",
            "resources": {"vram_gb": 12},
        }
    ]
    assert lock["resources"] == {"vram_gb": 12}
    assert lock["host_requirements"] == {"cuda": ">=12.4"}
    assert [key for key in lock if key.startswith("models")] == []


def test_a_profile_carries_its_resources_in_full(write_project: WriteProject) -> None:
    other = '[[build.profiles]]\nname = "small"\naccelerator = "cuda"\n'
    own = f"{other}[build.profiles.resources]\nvram_gb = 8\n"
    lock = discover_manifest(
        project(
            write_project,
            FULL,
            f"{TOML}{own}".replace("vram_gb = 12", "vram_gb = 12\ncpu_cores = 4"),
        )
    )
    assert [profile["resources"] for profile in lock["profiles"]] == [
        {"vram_gb": 12, "cpu_cores": 4},
        {"vram_gb": 8, "cpu_cores": 4},
    ]


def test_the_older_dialect_is_written(write_project: WriteProject) -> None:
    lock = discover_manifest(
        project(
            write_project,
            APP
            + """
@worker_function(ResourceRequirements(requires_gpu=True, batch_size_max=4))
def transcribe(ctx: RequestContext,
               asr: Annotated[Any, model_ref("fixed", "asr_main")],
               small: Annotated[Any, model_ref("payload", "mode")], ask: Ask) -> Piece: ...

@inference_function(concurrency="concurrent")
def other(ctx, ask: Ask) -> Piece: ...
""",
            TOML
            + """
[models]
asr_main = { ref = "acme/asr", attributes = { dtype = ["bf16", "fp16"] } }
[models.transcribe]
fast = "acme/asr-small"
[functions.transcribe]
batch_dimension = "pictures[].ref"
""",
        )
    )
    transcribe, other = lock["functions"]
    assert [row["param"] for row in transcribe["injection_json"]] == ["asr", "small"]
    assert transcribe["required_models"] == ["asr_main"]
    assert transcribe["payload_repo_selectors"] == [{"field": "mode", "kind": "short_key"}]
    assert transcribe["batch_dimension"] == "pictures[].ref"
    assert transcribe["resources"]["batch_size_max"] == 4
    assert "bindings" not in transcribe
    assert other["concurrency_mode"] == "concurrent"
    assert lock["models"] == {
        "asr_main": {"ref": "acme/asr", "attributes": {"dtype": ["bf16", "fp16"]}}
    }
    assert lock["models_by_function"] == {"transcribe": {"fast": {"ref": "acme/asr-small"}}}
    assert manifest_of(lock).models["asr_main"].attributes == {"dtype": ("bf16", "fp16")}


def test_a_job_is_written(write_project: WriteProject) -> None:
    (entry,) = discover_functions(
        project(
            write_project,
            APP
            + """
class Source: ...
@training_function(kind="quantization", calibration={"int4": "required"})
def quantize(ctx, source: Source, bits: int, names: list[str] = ["a"]) -> None: ...
""",
        )
    )
    assert (entry["kind"], entry["endpoint_kind"]) == ("quantization", "conversion")
    assert entry["calibration"] == {"int4": "required"}
    assert entry["payload_refs"] == {"source": {"param": "source", "kind": "source"}}
    assert entry["concurrency_mode"] == "sequential"
    schema = entry["input_schema"]
    assert sorted(schema["required"]) == ["bits", "destination", "source"]
    assert schema["properties"]["names"]["items"] == {"type": "string"}
    assert set(schema["$defs"]) == {"SourceRepo", "DestinationRepo"}
    conversion = "gen_worker.conversion"
    assert entry["payload_type"] == {"module": "", "qualname": f"{conversion}.WirePayload"}
    assert entry["output_type"] == {"module": conversion, "qualname": "list[ProducedFlavor]"}
    assert (entry["output_mode"], entry["incremental_output"]) == ("single", False)
    assert (entry["output_schema"], entry["output_schema_sha256"]) == ({}, "")
    assert entry["payload_schema_sha256"] == schema_sha256(schema)


def test_a_job_with_everything_says_what_callers_send(write_project: WriteProject) -> None:
    (entry,) = discover_functions(
        project(
            write_project,
            APP
            + """
from collections.abc import Iterator
from gen_worker.types import DestinationRepo, ProducedFlavor
class Source: ...
class Dataset: ...
class Spec(msgspec.Struct):
    scheme: str
class More(msgspec.Struct):
    rank: int
    alpha: float = 1.0
@training_function(kind="distillation:small", label="Small", description="Makes it small")
def distill(
    ctx, source: Source, specs: list[Spec], datasets: list[Dataset], teacher: Source,
    payload: More, destination: DestinationRepo, judge: Source | None = None,
) -> Iterator[ProducedFlavor]: ...
""",
        )
    )
    schema = entry["input_schema"]
    assert sorted(schema["required"]) == ["destination", "rank", "source", "teacher"]
    assert schema["properties"]["datasets"]["default"] == []
    assert schema["properties"]["alpha"] == {"type": "number", "default": 1.0}
    assert {one.get("type") for one in schema["properties"]["teacher"]["anyOf"]} == {None, "string"}
    assert set(schema["$defs"]) == {"SourceRepo", "DestinationRepo", "DatasetRef", "Spec"}
    assert sorted(entry["payload_refs"]) == ["judge", "source", "teacher"]
    assert (entry["output_mode"], entry["incremental_output"]) == ("single", False)
    assert (entry["label"], entry["description"]) == ("Small", "Makes it small")


def test_a_lock_survives_its_file(write_project: WriteProject, tmp_path: Path) -> None:
    lock = discover_manifest(project(write_project, FULL))
    path = tmp_path / "endpoint.lock"
    write_lock(path, lock)
    read = parse_lock(path)
    assert read == lock
    assert content_sha256(read) == read["content_sha256"]
    for function in read["functions"]:
        assert schema_sha256(function["input_schema"]) == function["payload_schema_sha256"]
    manifest = load_lock(path)
    assert manifest.modules == ("painter", "painter.app")
    assert manifest.functions[1].stages[0].gpu_class == "small"
    assert validate_endpoint_lock(read) == (True, [], [])
    assert set(read) <= set(Manifest.__struct_fields__)
    for function in read["functions"]:
        assert set(function) <= set(LockedFunction.__struct_fields__)


def test_the_hash_is_that_of_compact_sorted_json_without_the_sdk(
    write_project: WriteProject,
) -> None:
    import hashlib

    lock = discover_manifest(project(write_project, FULL))
    content = {k: v for k, v in lock.items() if k not in ("content_sha256", "sdk_version")}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == lock["content_sha256"]
    assert content_sha256(lock | {"sdk_version": "99"}) == lock["content_sha256"]
    assert content_sha256(lock | {"endpoint_name": "x"}) != lock["content_sha256"]


def test_an_optional_literal_stays_optional(write_project: WriteProject) -> None:
    lock = discover_manifest(project(write_project, FULL))
    mode = lock["functions"][0]["input_schema"]["properties"]["mode"]
    assert mode == {"anyOf": [{"enum": ["fast"]}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("app", "toml", "code", "words"),
    [
        (
            '@worker_function()\ndef f(ctx, m: Annotated[Any, model_ref("fixed", "gone")], '
            "ask: Ask) -> Piece: ...",
            "",
            "model_key_missing",
            "f takes model 'gone', which [models] does not have",
        ),
        (
            '@worker_function()\ndef f(ctx, m: Annotated[Any, model_ref("payload", "mode")], '
            "ask: Ask) -> Piece: ...",
            '[models]\nother = "a/b"',
            "model_keyspace_missing",
            "list the models under [models.f]",
        ),
        (
            "@inference_function\ndef paint_it(ctx, ask: Ask) -> Piece: ...",
            '[models.paint-id]\nfast = "a/b"',
            "unknown_function",
            "[models.paint-id] names no function: did you mean 'paint-it'?",
        ),
        (
            "@inference_function\ndef f(ctx, ask: Ask) -> Piece: ...",
            '[functions.f]\nbatch_dimension = "clips"',
            "unknown_payload_field",
            "begins with 'clips', which is no field of f's payload",
        ),
        (
            "class Odd(msgspec.Struct):\n  x: object\n  y: complex\n"
            "@inference_function\ndef f(ctx, ask: Odd) -> Piece: ...",
            "",
            "schema",
            "Odd.y is complex",
        ),
        (
            "@inference_function(label='\\ud800')\ndef f(ctx, ask: Ask) -> Piece: ...",
            "",
            "not_text",
            "is not UTF-8 text",
        ),
    ],
)
def test_what_contradicts_the_file_or_has_no_entry(
    write_project: WriteProject, app: str, toml: str, code: str, words: str
) -> None:
    with pytest.raises(DiscoveryError) as caught:
        discover_manifest(project(write_project, APP + app, TOML + toml))
    (problem,) = caught.value.problems
    assert problem.code == code
    assert words in str(problem)
    assert problem.file
    assert problem.line


def test_without_main_decorated_files_are_found_by_their_syntax(
    write_project: WriteProject,
) -> None:
    root = project(write_project, FULL)
    (root / "endpoint.toml").unlink()
    (root / "stray.py").write_text("raise RuntimeError('has no decorator')")
    for hidden in (".venv", "build", "node_modules"):
        (root / hidden).mkdir()
        (root / hidden / "bad.py").write_text("@inference_function\ndef f(): ...")
    (root / "invalid.py").write_text("@inference_function\ndef f(:")
    assert [entry["name"] for entry in discover_functions(root)] == ["paint", "say", "stream"]
    assert len(discover_functions(root, main_module="painter.app")) == 3


# ---- reading


def test_a_missing_lock_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"gen_worker\.discover -o") as caught:
        load_lock(tmp_path / "endpoint.lock")
    assert caught.value.problems[0].code == "lock_missing"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"functions = 3", "not an endpoint.lock"),
        (b"functions = [{ name = 3 }]", "functions"),
        (b"x = ", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"x = " + b"[" * 5_000, "nested too deeply"),
    ],
)
def test_what_is_no_lock_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "endpoint.lock"
    path.write_bytes(content)
    with pytest.raises(LockError, match=words) as caught:
        load_lock(path)
    assert [problem.code for problem in caught.value.problems] == ["lock_invalid"]


def test_the_lock_is_looked_for_where_the_setting_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GEN_WORKER_LOCK", raising=False)
    assert default_lock_path() == "/app/.tensorhub/endpoint.lock"
    own = tmp_path / ".tensorhub" / "endpoint.lock"
    own.parent.mkdir()
    own.write_text("functions = []\nendpoint_name = 'own'")
    assert load_lock().endpoint_name == "own"
    (tmp_path / "other.lock").write_text("functions = []\nendpoint_name = 'other'")
    monkeypatch.setenv("GEN_WORKER_LOCK", "other.lock")
    assert load_lock().endpoint_name == "other"


def test_an_older_lock_is_read(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.lock"
    path.write_text(
        '[[functions]]\nname = "say"\nmodule = "acme"\nclass_name = "Speaker"\nfuture = 1\n'
    )
    manifest = load_lock(path)
    assert (manifest.lock_version, manifest.modules) == (0, ("acme",))


def test_a_newer_lock_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.lock"
    path.write_text("lock_version = 2\nfunctions = []\n")
    with pytest.raises(LockError, match="upgrade gen-worker") as caught:
        load_lock(path)
    assert caught.value.problems[0].code == "lock_version"


def test_the_folder_of_a_lock_is_made(tmp_path: Path) -> None:
    path = tmp_path / ".tensorhub" / "endpoint.lock"
    write_lock(path, {"functions": []})
    assert parse_lock(path) == {"functions": []}


def test_a_failed_write_leaves_the_old_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "endpoint.lock"
    write_lock(path, {"functions": []})
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_lock(path, {"functions": [], "lock_version": 1})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


PROPERTY = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.\"' é", max_size=3), inner)
    ),
    max_leaves=10,
)


@PROPERTY
@given(table=st.dictionaries(st.text("ab.", max_size=3), JSON))
def test_any_table_survives_toml(table: dict[str, Any]) -> None:
    written = as_toml_table(table)
    text = dump_lock(written)
    assert tomllib.loads(text) == written
    assert content_sha256(tomllib.loads(text)) == content_sha256(written)


@PROPERTY
@given(content=st.binary(max_size=100))
def test_any_bytes_are_a_lock_error_or_a_table(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "endpoint.lock"
    path.write_bytes(content)
    with pytest.raises(LockError):
        load_lock(path)


@PROPERTY
@given(lock=st.fixed_dictionaries({"functions": JSON}, optional={"lock_version": JSON}))
def test_any_table_is_judged(lock: dict[str, Any]) -> None:
    result = validate_endpoint_lock(lock)
    assert result.ok == (not result.errors)
