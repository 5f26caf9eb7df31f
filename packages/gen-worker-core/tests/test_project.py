"""endpoint.toml: what it may say, and what is said about everything else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_worker.errors import WorkerError
from gen_worker.project import ModelEntry, Profile, Project, ProjectError, load_project
from gen_worker.project.diagnosis import structural_problems
from gen_worker.project.values import EndpointFile

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.problems import Problem

HEAD = 'schema_version = 1\nmain = "painter.app"\n'
CPU = '[[build.profiles]]\nname = "cpu"\naccelerator = "none"\n'


def load(root: Path, text: str) -> Project:
    (root / "endpoint.toml").write_text(text, encoding="utf-8")
    return load_project(root)


def mistakes(root: Path, text: str) -> list[tuple[str, str, int]]:
    """Return code, key and line of every mistake in the file."""
    with pytest.raises(ProjectError) as caught:
        load(root, text)
    assert all(problem.file == str(root / "endpoint.toml") for problem in caught.value.problems)
    return [(problem.code, problem.key, problem.line) for problem in caught.value.problems]


# ---- what is accepted


def test_minimal_project(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        HEAD + CPU + 'python = "3.12"\ndependencies = ["gen-worker>=0.8", "msgspec"]\n',
    )
    assert project.main == "painter.app"
    assert project.root == str(tmp_path)
    assert project.profiles == (
        Profile(
            name="cpu",
            accelerator="none",
            python="3.12",
            dependencies=("gen-worker>=0.8", "msgspec"),
        ),
    )


def test_full_profile(tmp_path: Path) -> None:
    profile = load(
        tmp_path,
        HEAD
        + """
        [[build.profiles]]
        name = "gpu"
        accelerator = "cuda"
        cuda_min = "12.4"
        compute_capabilities = [">=8.0", "9.x", ">=8.0,<10"]
        cpu_arch = "amd64"
        os = "linux"
        python = "3.12"
        torch = "2.12.x"
        cuda = "12.6"
        image_kind = "devel"
        system_dependencies = ["ffmpeg", "libgl1=1.7.0-1"]
        """,
    ).profiles[0]
    assert profile.cpu_arch == "x86"
    assert profile.torch == "2.12.x"
    assert profile.compute_capabilities == (">=8.0", "9.x", ">=8.0,<10")
    assert profile.has_version_hints


def test_older_file_with_keyspaces(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        """
        schema_version = 1
        name = "Voice_Lab"
        main = "voicelab.app"

        [functions.transcribe_all]
        batch_dimension = "clips"

        [models]
        asr_main = { ref = "acme/asr-large", attributes = { dtype = ["bf16", "fp16", "bf16"] } }
        plain = "acme/plain:v1"
        pinned = "acme/plain@blake3:00ff"
        flavored = "acme/plain#fp8"
        old = { ref = "acme/old", flavors = ["a", "b"], file_type = "safetensors" }

        [models.transcribe_all]
        fast = "acme/asr-small"

        [resources]
        max_inflight_requests = 1
        vram_gb = 12
        ram_gb = 32
        cuda_compute_min = 8.0
        """,
    )
    assert project.name == project.endpoint_name == "voice-lab"
    assert project.functions["transcribe-all"].batch_dimension == "clips"
    assert project.models["asr_main"] == ModelEntry(
        ref="acme/asr-large", attributes={"dtype": ("bf16", "fp16")}
    )
    assert project.models["flavored"] == ModelEntry(
        ref="acme/plain", attributes={"flavor": ("fp8",)}
    )
    assert project.models["old"].attributes == {"flavor": ("a", "b"), "file_type": ("safetensors",)}
    assert project.models_by_function == {
        "transcribe-all": {"fast": ModelEntry(ref="acme/asr-small")}
    }
    assert project.resources.memory_gb == 32
    assert project.resources.min_compute_capability == "8.0"


def test_older_names_lose_against_the_newer(tmp_path: Path) -> None:
    limits = load(tmp_path, HEAD + "[resources]\nram_gb = 8\nmemory_gb = 16\n").resources
    assert (limits.memory_gb, limits.ram_gb) == (16, None)


def test_profile_overrides_single_resources(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        HEAD
        + "[resources]\nvram_gb = 24\ncpu_cores = 4\n"
        + CPU
        + "[build.profiles.resources]\nvram_gb = 0\n"
        + CPU.replace("cpu", "cpu-2"),
    )
    first, second = (project.resources_of(profile) for profile in project.profiles)
    assert (first.vram_gb, first.cpu_cores) == (0, 4)
    assert (second.vram_gb, second.cpu_cores) == (24, 4)


@pytest.mark.parametrize(
    ("has_dockerfile", "hints", "mode"),
    [
        (False, 'python = "3.12"', "generated"),
        (False, 'base_image = "debian:12"', "generated"),
        (True, 'python = "3.12"\ntorch = "2.12.x"', "managed"),
        (True, 'cuda = "12.6"\nbase_image = "debian:12"', "explicit"),
        (True, "", "custom"),
    ],
)
def test_build_mode(tmp_path: Path, has_dockerfile: bool, hints: str, mode: str) -> None:
    if has_dockerfile:
        (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    project = load(tmp_path, HEAD + CPU + hints)
    assert project.build_mode(project.profiles[0]) == mode


def test_endpoint_name_falls_back_to_pyproject_and_then_to_the_package(tmp_path: Path) -> None:
    project = load(tmp_path, HEAD)
    assert project.endpoint_name == "painter"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "My_Painter"\n')
    assert project.endpoint_name == "my-painter"
    (tmp_path / "pyproject.toml").write_text('project = "x"')
    assert project.endpoint_name == "painter"


def test_a_byte_order_mark_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "endpoint.toml").write_bytes(b"\xef\xbb\xbf" + HEAD.encode())
    assert load_project(tmp_path / "endpoint.toml").main == "painter.app"


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('schema_version = "1"\nmain = "a"', [("wrong_type", "schema_version", 1)]),
        ('schema_version = 2\nmain = "a"', [("bad_value", "schema_version", 1)]),
        ('schema_version = true\nmain = "a"', [("wrong_type", "schema_version", 1)]),
        ('main = "a"', [("missing_key", "schema_version", 0)]),
        ("schema_version = 1", [("missing_key", "main", 0)]),
        ('schema_version = 1\nmain = ""', [("bad_value", "main", 2)]),
        ('schema_version = 1\nmain = "src/a/b.py"', [("bad_value", "main", 2)]),
        ('schema_version = 1\nmain = "a..b"', [("bad_value", "main", 2)]),
        ('schema_version = 1\nmain = "a.class"', [("bad_value", "main", 2)]),
        (HEAD + 'name = "é"', [("empty_slug", "name", 3)]),
        (HEAD + "[scaling]\nx = 1", [("moved_key", "scaling", 3)]),
        (HEAD + "[modles]\nx = 1", [("unknown_key", "modles", 3)]),
        (HEAD + "[resources]\nvram_gb = 1.5", [("wrong_type", "resources.vram_gb", 4)]),
        (HEAD + "[resources]\nvram_gb = -1", [("bad_value", "resources.vram_gb", 4)]),
        (HEAD + "[resources]\nvram_gb = true", [("wrong_type", "resources.vram_gb", 4)]),
        (
            HEAD + '[resources]\ninvoker_compute_override = "x"',
            [("bad_value", "resources.invoker_compute_override", 4)],
        ),
        (
            HEAD + "[resources]\nmin_compute_capability = inf",
            [("bad_value", "resources.min_compute_capability", 4)],
        ),
        (HEAD + CPU + "python = 3.12", [("wrong_type", "build.profiles[0].python", 6)]),
        (HEAD + CPU + 'python = "3.10"', [("bad_value", "build.profiles[0].python", 6)]),
        (HEAD + CPU + 'cuda_min = "12"', [("contradiction", "build.profiles[0].cuda_min", 6)]),
        (
            HEAD + CPU + 'compute_capabilities = ["new"]',
            [
                ("contradiction", "build.profiles[0].compute_capabilities", 6),
                ("bad_value", "build.profiles[0].compute_capabilities[0]", 6),
            ],
        ),
        (
            HEAD + CPU + 'dependencies = ["--index-url x", 3]',
            [
                ("bad_value", "build.profiles[0].dependencies[0]", 6),
                ("wrong_type", "build.profiles[0].dependencies[1]", 6),
            ],
        ),
        (
            HEAD + CPU + 'system_dependencies = ["a; rm"]',
            [("bad_value", "build.profiles[0].system_dependencies[0]", 6)],
        ),
        (
            HEAD + CPU + 'base_image = "x\\nRUN y"',
            [
                ("control_character", "build.profiles[0].base_image", 6),
                ("bad_value", "build.profiles[0].base_image", 6),
            ],
        ),
        (HEAD + CPU + CPU, [("duplicate_profile", "build.profiles[1].name", 7)]),
        (HEAD + "[build]\nprofiles = 3", [("wrong_type", "build.profiles", 4)]),
        (HEAD + "build = 3", [("wrong_type", "build", 3)]),
        (
            HEAD + '[host.requirements]\ncuda_compute_capabilities = ["8.0"]',
            [("moved_key", "host.requirements.cuda_compute_capabilities", 4)],
        ),
        (
            HEAD + '[host.requirements]\ncuda = ">>12"',
            [("bad_value", "host.requirements.cuda", 4)],
        ),
        (
            HEAD + '[functions.f]\nbatch_dimension = "input.clips"',
            [("bad_value", "functions.f.batch_dimension", 4)],
        ),
        (HEAD + "[functions.f.resources]\nx = 1", [("moved_key", "functions.f.resources", 3)]),
        (
            HEAD + '[functions.f_g]\nbatch_dimension = "x"\n[functions.f-g]',
            [("duplicate_function", "functions.f-g", 5)],
        ),
        (HEAD + 'functions = "f"', [("wrong_type", "functions", 3)]),
        (HEAD + f"name = 0x{'f' * 6000}", [("wrong_type", "name", 3)]),
    ],
)
def test_mistake(tmp_path: Path, text: str, expected: list[tuple[str, str, int]]) -> None:
    assert mistakes(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ('"Acme/Asr"', "bad_ref"),
        ('"hf:acme/asr"', "bad_ref"),
        ('"acme"', "bad_ref"),
        ('"acme/asr:"', "bad_ref"),
        ('"acme/asr@"', "bad_ref"),
        ('"acme/asr@a@b"', "bad_ref"),
        ('""', "bad_ref"),
        ('"acme/asr#"', "bad_ref"),
        ('{ ref = "acme/asr#a", flavor = "b" }', "bad_ref"),
        ("3", "wrong_type"),
        ('{ attributes = { dtype = "bf16" } }', "bad_ref"),
        ('{ ref = "acme/asr", dtypes = ["bf16"] }', "moved_key"),
        ('{ ref = "acme/asr", speed = 1 }', "unknown_key"),
        ('{ ref = "acme/asr", flavor = "a", flavors = ["b"] }', "bad_attributes"),
        ('{ ref = "acme/asr", attributes = { a = [] } }', "bad_attributes"),
        ('{ ref = "acme/asr", attributes = { a = "" } }', "bad_attributes"),
        ('{ ref = "acme/asr", attributes = { a = [1] } }', "bad_attributes"),
        ('{ ref = "acme/asr", attributes = { "" = "x" } }', "bad_attributes"),
        ('{ ref = "acme/asr", attributes = 3 }', "wrong_type"),
        ('{ ref = "acme/asr", attributes = { a = ["1", "2"], b = ["1", "2"] } }', "bad_attributes"),
    ],
)
def test_wrong_model_entry(tmp_path: Path, entry: str, code: str) -> None:
    assert [found[::2] for found in mistakes(tmp_path, f"{HEAD}[models]\nx = {entry}")] == [
        (code, 4)
    ]


def test_all_mistakes_are_reported_at_once_in_file_order(tmp_path: Path) -> None:
    text = """
schema_version = "1"
mian = "painter.app"
name = "!!"

[resources]
vram = 3

[[build.profiles]]
name = "cpu"
acelerator = "none"

[[build.profiles]]
name = "gpu"
accelerator = "none"
cuda_min = "12.4"

[models]
a = "Acme/X"
"""
    with pytest.raises(ProjectError) as caught:
        load(tmp_path, text)
    problems = caught.value.problems
    assert [(problem.code, problem.line) for problem in problems] == [
        ("missing_key", 0),
        ("wrong_type", 2),
        ("unknown_key", 3),
        ("empty_slug", 4),
        ("unknown_key", 7),
        ("missing_key", 9),
        ("unknown_key", 11),
        ("contradiction", 16),
        ("bad_ref", 19),
    ]
    hints = {problem.key: problem.hint for problem in problems}
    assert hints["mian"] == "did you mean 'main'?"
    assert hints["resources.vram"] == "did you mean 'vram_gb'?"
    assert hints["models.a.ref"] == "refs are lower-case, write 'acme/x'"
    assert str(caught.value).splitlines()[2] == (
        f"{tmp_path}/endpoint.toml:3: unknown key 'mian': did you mean 'main'? [unknown_key]"
    )


def test_a_table_with_an_unknown_key_is_looked_through_to_its_end(tmp_path: Path) -> None:
    text = """
[[build.profiles]]
name = "cpu"
accelerator = "gpu"
python = "3.10"

[[build.profiles]]
name = "CPU"
accelerator = "none"
cuda_min = "12.4"
dependencis = []
resources = { foo = 1, cuda_compute_min = "x" }

[host.requirements]
cuda = "twelve"
foo = 1

[functions.a]
batch_dimension = "input.x"
foo = 1
"""
    assert [found[::2] for found in mistakes(tmp_path, HEAD + text)] == [
        ("bad_value", 6),
        ("bad_value", 7),
        ("duplicate_profile", 10),
        ("contradiction", 12),
        ("unknown_key", 13),
        ("unknown_key", 14),
        ("bad_value", 14),
        ("bad_value", 17),
        ("unknown_key", 18),
        ("bad_value", 21),
        ("unknown_key", 22),
    ]


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b'schema_version = 1\nmain = "a', "toml_syntax", 2),
        (b"a = 1\na = 2\n", "toml_syntax", 2),
        (b"x = \x00", "toml_syntax", 1),
        (b"x = " + b"[" * 5_000, "toml_syntax", 0),
        (b"a." * 3_000 + b"b = 1", "toml_syntax", 0),
        (b"x = " + b"9" * 5_000, "toml_syntax", 0),
        (b"\xff\xfe\x00", "toml_encoding", 0),
        ("main = 'ä'".encode("latin-1"), "toml_encoding", 0),
        (b"#" * (256 * 1024 + 1), "toml_too_large", 0),
    ],
)
def test_unreadable_content(tmp_path: Path, content: bytes, code: str, line: int) -> None:
    (tmp_path / "endpoint.toml").write_bytes(content)
    with pytest.raises(ProjectError) as caught:
        load_project(tmp_path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.line) == (code, line)


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="gen-worker init") as caught:
        load_project(tmp_path)
    assert caught.value.problems[0].code == "toml_missing"
    assert isinstance(caught.value, WorkerError)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endpoint.toml")
    with pytest.raises(ProjectError) as caught:
        load_project(tmp_path)
    assert caught.value.problems[0].code == "toml_unreadable"


def test_an_impossible_path_is_a_typed_error() -> None:
    with pytest.raises(ProjectError):
        load_project("x\0y")


# ---- properties

KEYS = st.sampled_from(
    [
        *EndpointFile.__struct_fields__,
        *Profile.__struct_fields__,
        "requirements",
        "profiles",
        "ref",
        "attributes",
        "x",
        "",
        "a.b",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.datetimes()
    | st.text(max_size=8)
    | st.sampled_from(["cuda", "none", "3.12", "acme/x", "painter.app", "clips", "a\nb", ">=8.0"])
).filter(lambda value: value is not None)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
PROFILES = st.fixed_dictionaries(
    {"name": st.text("ab ", min_size=1, max_size=2), "accelerator": st.sampled_from(["cuda"])},
    optional={key: VALUES for key in ("python", "resources", "dependencies", "os", "cuda_min")},
)
DOCUMENTS = st.fixed_dictionaries(
    {"schema_version": st.just(1) | VALUES, "main": st.just("painter.app") | VALUES},
    optional={
        "name": VALUES,
        "resources": VALUES,
        "host": VALUES,
        "models": VALUES,
        "functions": VALUES,
        "build": st.fixed_dictionaries({"profiles": st.lists(PROFILES, max_size=3)}) | VALUES,
        "x": VALUES,
    },
)
PROPERTY = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def problems_of(root: Path) -> tuple[Problem, ...]:
    try:
        project = load_project(root)
    except ProjectError as error:
        return error.problems
    assert project.main.isprintable()
    assert project.endpoint_name
    return ()


@PROPERTY
@given(document=DOCUMENTS)
def test_any_document_is_a_project_or_a_list_of_problems(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    text = tomli_w.dumps(document)
    (tmp_path / "endpoint.toml").write_bytes(text.encode("utf-8", "replace"))
    for problem in problems_of(tmp_path):
        assert problem.code
        assert problem.message.isprintable()
        assert 0 <= problem.line <= text.count("\n") + 1


@PROPERTY
@given(document=DOCUMENTS)
def test_the_fast_and_the_thorough_check_agree(document: dict[str, Any]) -> None:
    try:
        msgspec.convert(document, EndpointFile)
    except (msgspec.ValidationError, UnicodeEncodeError):
        assert structural_problems(document)
    else:
        assert structural_problems(document) == []


@PROPERTY
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_typed_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "endpoint.toml").write_bytes(content)
    with pytest.raises(ProjectError):
        load_project(tmp_path)
