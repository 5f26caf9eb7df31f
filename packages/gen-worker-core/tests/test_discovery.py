"""The walk that finds an endpoint's functions."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gen_worker.discovery import Discovery, DiscoveryError, discover
from gen_worker.discovery.importing import is_inside
from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    WriteProject = Callable[[Mapping[str, str]], Path]

TYPES = """
import msgspec
class In(msgspec.Struct):
    text: str = ""
class Out(msgspec.Struct):
    text: str = ""
"""
APP = f"""{TYPES}
from gen_worker import inference_function
@inference_function
def paint(ctx, payload: In) -> Out:
    return Out(payload.text)
"""
MORE = """
from gen_worker import inference_function
from painter.app import In, Out
@inference_function
def {name}(ctx, payload: In) -> Out: ...
"""


def names(discovery: Discovery) -> list[str]:
    return [spec.name for spec in discovery.raise_if_wrong().functions]


def test_all_submodules_are_walked_in_module_and_line_order(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "",
            "painter/app.py": APP
            + "@inference_function\ndef again(ctx, payload: In) -> Out: ...\n",
            "painter/zoo/__init__.py": MORE.format(name="in_package"),
            "painter/zoo/lion.py": MORE.format(name="roar"),
            "painter/extra.py": MORE.format(name="extra"),
        }
    )
    discovery = discover(root, "painter.app")
    assert names(discovery) == ["paint", "again", "extra", "in-package", "roar"]
    assert [spec.module for spec in discovery.functions][-2:] == ["painter.zoo", "painter.zoo.lion"]


def test_every_shape_is_found(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "",
            "painter/app.py": f"""{TYPES}
from typing import AsyncIterator, Iterator
from gen_worker import Case, batched_inference, inference, inference_function, invocable
from gen_worker import worker_function

@worker_function()
def older(ctx, payload: In) -> Out: ...

@inference_function
async def asynchronous(ctx, payload: In) -> Out: ...

@inference_function
def stream(ctx, payload: In) -> Iterator[Out]:
    yield Out()

@inference
class Painter:
    def setup(self): ...
    @invocable
    def one(self, ctx, payload: In) -> Out: ...
    @invocable(name="second_one")
    def two(self, ctx, payload: In) -> Out: ...

@batched_inference
class Batched:
    def setup(self): ...
    @batched_inference.function
    async def tokens(self, ctx, payload: In) -> AsyncIterator[Out]:
        yield Out()

@inference(parametrize=[Case("small"), Case("large")])
class Rows:
    def setup(self): ...
    @invocable
    def run(self, ctx, payload: In) -> Out: ...
""",
        }
    )
    assert names(discover(root, "painter.app")) == [
        "older",
        "asynchronous",
        "stream",
        "one",
        "second-one",
        "tokens",
        "small",
        "large",
    ]


def test_a_function_counts_once_and_where_it_is_defined(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "from painter.app import paint",
            "painter/app.py": APP + "alias = paint\n",
            "painter/wrapped.py": """
            import functools
            from painter.app import paint
            @functools.wraps(paint)
            def logged(*args, **kwargs):
                return paint(*args, **kwargs)
            """,
        }
    )
    (spec,) = discover(root, "painter.app").raise_if_wrong().functions
    assert (spec.name, spec.module) == ("paint", "painter.app")


def test_functions_of_other_packages_are_not_the_endpoints(
    write_project: WriteProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library" / "painting_library.py"
    library.parent.mkdir()
    library.write_text(APP.replace("paint", "foreign"))
    monkeypatch.syspath_prepend(str(library.parent))
    root = write_project({"painter.py": APP + "from painting_library import foreign\n"})
    assert names(discover(root, "painter")) == ["paint"]


def test_modules_beside_main_count_when_main_uses_them(write_project: WriteProject) -> None:
    root = write_project(
        {
            "app.py": "import handlers\nfrom more_handlers import three\n" + APP,
            "handlers.py": APP.replace("paint", "two"),
            "more_handlers.py": APP.replace("paint", "three") + APP.replace("paint", "four"),
            "unused_handlers.py": "raise RuntimeError('nobody imports this')",
        }
    )
    assert names(discover(root, "app")) == ["paint", "two", "three", "four"]


def test_several_modules_of_a_lock_are_walked(write_project: WriteProject) -> None:
    root = write_project({"one.py": APP, "two.py": APP.replace("paint", "draw")})
    assert names(discover(root, ["two", "one", "two"])) == ["draw", "paint"]


def test_a_namespace_package_that_main_imports_is_seen(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "",
            "painter/app.py": APP + "from painter.parts import brush\n",
            "painter/parts/brush.py": APP.replace("paint", "brush"),
        }
    )
    assert names(discover(root, "painter.app")) == ["paint", "brush"]


def test_src_wins_over_the_root(write_project: WriteProject) -> None:
    root = write_project({"painter.py": APP.replace("paint", "outer"), "src/painter.py": APP})
    assert names(discover(root, "painter")) == ["paint"]
    assert sys.path[:2] == [str(root / "src"), str(root)]


def test_a_second_discovery_gives_the_same_specs(write_project: WriteProject) -> None:
    root = write_project({"painter.py": APP})
    first, second = (discover(root, "painter").functions for _ in range(2))
    assert [id(spec) for spec in first] == [id(spec) for spec in second]
    assert sys.path.count(str(root)) == 1


def test_the_program_of_a_package_is_not_run(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "",
            "painter/__main__.py": "raise SystemExit('the program ran')",
            "painter/app.py": APP,
        }
    )
    assert names(discover(root, "painter.app")) == ["paint"]


def test_a_link_to_an_outer_directory_ends(write_project: WriteProject) -> None:
    root = write_project({"painter/__init__.py": "", "painter/app.py": APP})
    os.symlink(root / "painter", root / "painter" / "loop")
    assert names(discover(root, "painter.app")) == ["paint"]


def test_lazy_attributes_and_proxies_are_left_alone(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter.py": APP
            + """
class Proxy:
    @property
    def __class__(self):
        raise RuntimeError("resolved a proxy")
    def __getattribute__(self, name):
        raise RuntimeError("touched a proxy")

class Meta(type):
    def __getattr__(cls, name):
        raise RuntimeError("touched a lazy class")

class Lazy(metaclass=Meta): ...

proxy = Proxy()

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise RuntimeError("touched a lazy module")
"""
        }
    )
    assert names(discover(root, "painter")) == ["paint"]


def test_prints_of_authors_do_not_reach_stdout(
    write_project: WriteProject, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_project({"painter.py": "print('loading')\n" + APP})
    discover(root, "painter")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loading" in captured.err


def test_each_import_is_announced(write_project: WriteProject) -> None:
    root = write_project({"painter/__init__.py": "", "painter/app.py": APP})
    seen: list[str] = []
    discover(root, "painter.app", watch=seen.append)
    assert seen == ["painter", "painter.app"]


# ---- what is wrong with functions


def codes(root: Path, main: str = "painter") -> list[str]:
    return [problem.code for problem in discover(root, main).problems]


def test_nothing_found_is_a_problem(write_project: WriteProject) -> None:
    root = write_project({"painter.py": "x = 1"})
    with pytest.raises(DiscoveryError, match="@inference_function") as caught:
        discover(root, "painter").raise_if_wrong()
    assert [problem.code for problem in caught.value.problems] == ["nothing_found"]
    assert isinstance(caught.value, WorkerError)


def test_two_functions_on_one_route_name_each_other(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "",
            "painter/app.py": APP,
            "painter/other.py": f"""{TYPES}
from gen_worker import inference, invocable
@inference
class Painter:
    def setup(self): ...
    @invocable(name="Paint!")
    def draw(self, ctx, payload: In) -> Out: ...
""",
        }
    )
    (problem,) = discover(root, "painter.app").problems
    assert problem.code == "duplicate_function"
    assert "painter.app.paint, painter.other.Painter.draw" in problem.message
    assert (problem.file, problem.line) == (str(root / "painter/other.py"), 12)


def test_a_single_output_has_to_be_declared(write_project: WriteProject) -> None:
    root = write_project({"painter.py": APP.replace(" -> Out", "")})
    (problem,) = discover(root, "painter").problems
    assert (problem.code, problem.line) == ("return_missing", 9)
    assert "-> Reply" in problem.hint


def test_a_generator_may_leave_open_what_it_yields(write_project: WriteProject) -> None:
    root = write_project(
        {"painter.py": APP.replace(" -> Out", "").replace("return Out", "yield Out")}
    )
    assert names(discover(root, "painter")) == ["paint"]


def test_markers_are_checked(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter.py": """
            import msgspec
            from typing import Annotated
            from gen_worker import ExpectedOutput, ImageAsset, PromptRole, inference_function
            class In(msgspec.Struct):
                prompt: Annotated[int, PromptRole("positive")] = 0
            class Out(msgspec.Struct):
                image: Annotated[ImageAsset, ExpectedOutput(width="input.size")]
            @inference_function
            def paint(ctx, payload: In) -> Out: ...
            """
        }
    )
    assert codes(root) == ["prompt_role", "expected_output"]


# ---- how it is imported


def in_a_new_process(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "from gen_worker.discovery import discover",
        "from gen_worker.discovery.discover import discover_functions\n"
        "from gen_worker.discovery import discover",
        "from gen_worker.discovery import discover\n"
        "from gen_worker.discovery.discover import discover_functions",
        "import gen_worker.discovery.discover\ndiscover = gen_worker.discovery.discover",
    ],
)
def test_discover_can_be_called_whatever_was_imported_before(
    write_project: WriteProject, imports: str
) -> None:
    root = write_project({"painter.py": APP})
    code = f"import sys\n{imports}\nprint(discover(sys.argv[1], 'painter').functions[0].name)"
    assert in_a_new_process(code, str(root)) == "paint\n"


def test_running_a_function_pays_for_no_tooling(write_project: WriteProject) -> None:
    root = write_project({"painter/__init__.py": "", "painter/app.py": APP})
    code = """
import sys
import msgspec
before = set(sys.modules)
from gen_worker.project import load_project
from gen_worker.discovery import discover
project = load_project(sys.argv[1])
assert discover(project.root, project.main).functions
print(*set(sys.modules) - before)
"""
    imported = set(in_a_new_process(code, str(root)).split())
    assert "gen_worker.discovery.walk" in imported
    assert imported.isdisjoint(
        {
            "asyncio",
            "dataclasses",
            "difflib",
            "gen_worker.manifest",
            "gen_worker.markers",
            "gen_worker.models",
            "gen_worker.project.diagnosis",
            "gen_worker.schema",
            "importlib.metadata",
            "inspect",
            "json",
            "logging",
            "pathlib",
            "subprocess",
            "tomli_w",
            "traceback",
        }
    )


def test_the_public_names() -> None:
    import gen_worker.discovery as package

    assert package.__all__ == [
        "Discovery",
        "DiscoveryError",
        "EndpointValidationResult",
        "Problem",
        "build_lock",
        "discover",
        "discover_functions",
        "discover_manifest",
        "load_endpoint_toml",
        "slugify_name",
        "validate_endpoint",
        "validate_endpoint_lock",
    ]
    assert all(callable(getattr(package, name)) for name in package.__all__)
    with pytest.raises(AttributeError):
        package.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("root", "file", "expected"),
    [
        ("/p", "/p/app.py", True),
        ("/p", "/px/app.py", False),
        ("/", "/app.py", True),
        ("/p", "/p/.venv/lib/python3.12/site-packages/x.py", False),
        ("/v/site-packages/p", "/v/site-packages/p/app.py", True),
        ("/p", None, False),
    ],
)
def test_what_belongs_to_a_project(root: str, file: str | None, expected: bool) -> None:
    assert is_inside(file, root) is expected
