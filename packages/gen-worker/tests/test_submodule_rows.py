"""Every module that authors and images name is there or is missed by name; so is every extra."""

import importlib
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

MODULES = {
    "gen_worker.io": ("exists", "open", "read_audio", "read_bytes", "read_image", "write_image"),
    "gen_worker.errors": ("FatalError", "RetryableError", "ValidationError", "classify"),
    "gen_worker.discover": (),
    "gen_worker.discovery": (
        "discover",
        "discover_functions",
        "discover_manifest",
        "load_endpoint_toml",
        "slugify_name",
        "validate_endpoint",
        "validate_endpoint_lock",
    ),
    "gen_worker.model_cache": ("ModelCache", "ModelCacheStats", "ModelLocation"),
    "gen_worker.entrypoint": ("main",),
    "gen_worker.testing": ("EndpointTester",),
    "gen_worker.testing.http_runner": ("main",),
    "gen_worker.testing.mock_orchestrator": ("main",),
    "gen_worker.trainer": (
        "StepContext",
        "StepControlHints",
        "StepResult",
        "TrainingContext",
        "TrainingJobSpec",
    ),
    "gen_worker.clone": ("from_civitai", "from_huggingface"),
    "gen_worker.conversion": ("ConversionContext", "ProducedFlavor", "training_function"),
    "gen_worker.wire_protocol": (
        "WIRE_PROTOCOL_MAJOR",
        "WIRE_PROTOCOL_MINOR",
        "wire_protocol_version_string",
    ),
}
"""What works, and the names authors take from it."""

TORCH = {"torch", "safetensors", "diffusers", "transformers", "peft", "accelerate"}
EXTRAS = {
    "torch": TORCH,
    "vision": TORCH | {"torchvision"},
    "images": {"pillow"},
    "audio": {"numpy", "soundfile"},
    "trainer": {"pyarrow"},
}

HEAVY = {"PIL", "diffusers", "numpy", "safetensors", "soundfile", "torch", "transformers"}

PROJECT = {
    "endpoint.toml": 'schema_version = 1\nmain = "echo_app"\n'
    '[[build.profiles]]\nname = "cpu"\naccelerator = "none"\npython = "3.12"\n',
    "echo_app.py": """
import msgspec
from gen_worker import inference_function

class Text(msgspec.Struct):
    text: str

print("an author's line")

@inference_function
def echo_back(ctx, payload: Text) -> Text:
    return payload
""",
}


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, content in PROJECT.items():
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_what_authors_take_from_it(module: str) -> None:
    loaded = importlib.import_module(module)
    assert [name for name in MODULES[module] if not hasattr(loaded, name)] == []


@pytest.mark.parametrize("part", ["errors", "types", "streaming", "decorators", "injection"])
def test_the_old_api_paths_are_missed_by_their_own_name(part: str) -> None:
    with pytest.raises(ImportError) as raised:
        importlib.import_module(f"gen_worker.api.{part}")
    assert raised.value.name == "gen_worker.api"


@pytest.mark.parametrize("module", ["gen_worker.discover", "gen_worker.discovery"])
def test_discovery_prints_the_lock_and_nothing_else(module: str, project: Path) -> None:
    import tomllib

    done = python("-m", module, cwd=project)
    assert done.returncode == 0, done.stderr
    lock = tomllib.loads(done.stdout)
    assert [function["name"] for function in lock["functions"]] == ["echo-back"]
    assert "an author's line" in done.stderr


def test_the_wire_version_is_the_one_workers_announce() -> None:
    wire = importlib.import_module("gen_worker.wire_protocol")
    assert (wire.WIRE_PROTOCOL_MAJOR, wire.WIRE_PROTOCOL_MINOR) == (1, 9)
    assert wire.wire_protocol_version_string() == "1.9"


@pytest.mark.parametrize(
    "code",
    [
        "import gen_worker.conversion; from gen_worker import conversion",
        "from gen_worker import conversion; import gen_worker.conversion",
        "from gen_worker.conversion import ProducedFlavor; from gen_worker import conversion",
    ],
)
def test_conversion_is_a_decorator_and_a_package_in_either_order(code: str) -> None:
    use = """
from gen_worker.conversion import ProducedFlavor, training_function
import msgspec, gen_worker
class In(msgspec.Struct): pass
for decorator in (conversion, gen_worker.conversion):
    @decorator(sub_kind="format-conversion")
    class Cast:
        def setup(self): ...
        @decorator.function(name="cast")
        def cast(self, ctx, payload: In) -> list[ProducedFlavor]: ...
        @decorator.stage
        def encode(self): ...
    print(gen_worker.spec.specs_of(Cast)[0].name)
"""
    done = python("-W", "error", "-c", f"import gen_worker.spec\n{code}\n{use}")
    assert done.stdout.split() == ["cast", "cast"], done.stderr


def test_writing_an_endpoint_imports_nothing_heavy(project: Path) -> None:
    code = f"import sys, echo_app; print(sorted({HEAVY} & set(sys.modules)))"
    done = python("-c", code, cwd=project)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def libraries(distribution: str, extra: str) -> set[str]:
    """Return what an extra installs, extras of our own packages resolved."""
    found: set[str] = set()
    for requirement in requires(distribution) or []:
        head, _, marker = requirement.replace('"', "'").partition(";")
        if f"extra == '{extra}'" not in marker:
            continue
        name, inner = re.findall(r"^([\w.-]+)(?:\[(.*?)\])?", head)[0]
        inners = filter(None, inner.split(","))
        found |= set().union(*(libraries(name, one) for one in inners)) if inner else {name}
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_adds_its_libraries(extra: str) -> None:
    assert libraries("gen-worker", extra) == EXTRAS[extra]


def test_the_dev_extra_brings_the_tools_that_authors_test_with() -> None:
    assert {"pytest", "mypy", "pillow"} <= libraries("gen-worker", "dev")


def test_the_console_command_runs_the_cli() -> None:
    command = os.path.join(os.path.dirname(sys.executable), "gen-worker")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout
