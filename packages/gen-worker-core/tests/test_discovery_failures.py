"""Modules that cannot be imported: named, placed, explained, and never hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gen_worker.discovery import Discovery, discover

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    WriteProject = Callable[[Mapping[str, str]], Path]

APP = """
import msgspec
from gen_worker import inference_function
class In(msgspec.Struct):
    text: str = ""
@inference_function
def paint(ctx, payload: In) -> In: ...
"""


def with_broken(write_project: WriteProject, text: str) -> Path:
    return write_project(
        {"painter/__init__.py": "", "painter/app.py": APP, "painter/broken.py": text}
    )


@pytest.mark.parametrize(
    ("text", "code", "line", "words"),
    [
        (
            "\nimport nonexistent_library.part",
            "package_missing",
            2,
            "'painter.broken' needs package 'nonexistent_library', which is not installed: "
            "install it, and list 'nonexistent_library' in dependencies",
        ),
        ("import painter.gone", "module_missing", 1, "imports 'painter.gone'"),
        ("from painter.app import gone", "import_fails", 1, "cannot import name 'gone'"),
        ("x = 1\nif x\n", "syntax_error", 2, "not valid Python, expected ':'"),
        ("import sys\nsys.exit(3)", "import_exits", 2, "if __name__"),
        ("1 / 0", "import_fails", 1, "ZeroDivisionError: division by zero"),
        ("raise RuntimeError('a\\nb')", "import_fails", 1, "RuntimeError: a b"),
        ("raise GeneratorExit", "import_fails", 1, "GeneratorExit"),
        ("raise OSError('\\udcff')", "import_fails", 1, "OSError: \\udcff"),
        ("def f(): f()\nf()", "import_fails", 1, "RecursionError"),
        (
            "class Odd(Exception):\n  def __str__(self): raise SystemExit\nraise Odd",
            "import_fails",
            3,
            "its text cannot be read",
        ),
    ],
)
def test_a_broken_submodule(
    write_project: WriteProject, text: str, code: str, line: int, words: str
) -> None:
    root = with_broken(write_project, text)
    discovery = discover(root, "painter.app")
    (problem,) = discovery.problems
    assert problem.code == code
    assert (problem.file, problem.line) == (str(root / "painter/broken.py"), line)
    assert words in str(problem)
    assert "Traceback" in problem.detail or code == "syntax_error"
    assert "Traceback" not in str(problem)
    assert [spec.name for spec in discovery.functions] == ["paint"]


def test_the_package_to_install_is_named(write_project: WriteProject) -> None:
    root = with_broken(
        write_project,
        "raise ModuleNotFoundError(\"No module named 'sklearn'\", name='sklearn')",
    )
    (problem,) = discover(root, "painter.app").problems
    assert problem.hint == "install it, and list 'scikit-learn' in dependencies"


def test_a_missing_part_of_the_sdk_is_named(write_project: WriteProject) -> None:
    root = with_broken(write_project, "import gen_worker.no_such_part")
    (problem,) = discover(root, "painter.app").problems
    assert problem.code == "package_missing"
    assert problem.hint == "add gen-worker to dependencies"


def test_a_source_that_is_no_text(write_project: WriteProject) -> None:
    root = with_broken(write_project, "")
    (root / "painter/broken.py").write_bytes(b"x = '\xff'")
    assert [problem.code for problem in discover(root, "painter.app").problems] == ["syntax_error"]


def test_mistakes_of_decorators_keep_their_codes_and_places(write_project: WriteProject) -> None:
    root = with_broken(
        write_project,
        "from gen_worker import inference_function\n"
        "@inference_function\n"
        "def lost(ctx, a, b) -> None: ...\n",
    )
    problems = discover(root, "painter.app").problems
    assert [problem.code for problem in problems] == ["payload_missing", "return_type"]
    assert all(problem.line == 2 for problem in problems)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "@inference_function\ndef f(ctx, a: dict) -> In: ...",
            "no parameter is a payload: 'a' is none: annotate exactly one",
        ),
        (
            "@inference_function\nclass F: ...",
            "decorate the class with @inference and its methods with @invocable",
        ),
        (
            "@inference\nclass F:\n    def f(self, ctx, a: In) -> In: ...",
            "mark one with @invocable",
        ),
        (
            "@inference\nclass F:\n    @invocable\n    def f(ctx, a: In) -> In: ...",
            "F.f: has no self: write self before the context",
        ),
        (
            "class Bad(msgspec.Struct):\n    x: set[int] | list[str]\n"
            "@inference_function\ndef f(ctx, a: Bad) -> In: ...",
            "f cannot be called, Bad has no JSON schema: Bad.x is set[int] | list[str]",
        ),
        (
            "from typing import Annotated\nfrom gen_worker import Clamp\n"
            "class Bad(msgspec.Struct):\n    x: Annotated[str, Clamp(1, 2)]\n"
            "@inference_function\ndef f(ctx, a: Bad) -> In: ...",
            "Bad.x: Clamp(min=1, max=2, cast='', round='half_up') does not fit str: put it on",
        ),
    ],
)
def test_mistakes_of_beginners_are_told_with_what_to_do(
    write_project: WriteProject, code: str, words: str
) -> None:
    head = (
        "import msgspec\n"
        "from gen_worker import inference, inference_function, invocable\n"
        "class In(msgspec.Struct):\n    text: str\n"
    )
    (problem, *_) = discover(with_broken(write_project, head + code), "painter.app").problems
    assert words in f"{problem.message}: {problem.hint}"


def test_a_class_whose_decorator_was_forgotten_is_named(write_project: WriteProject) -> None:
    code = "from gen_worker import invocable\nclass M:\n    @invocable\n    def f(self): ...\n"
    root = write_project({"painter/__init__.py": "", "painter/app.py": code})
    (problem,) = discover(root, "painter.app").problems
    assert problem.code == "nothing_found"
    assert problem.hint == "M has marked methods: decorate the class with @inference"


def test_one_broken_import_is_reported_once(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "",
            "painter/app.py": "import painter.broken\n" + APP,
            "painter/broken.py": "import nonexistent_library",
            "painter/user.py": "import painter.broken",
        }
    )
    problems = discover(root, "painter.app").problems
    assert [(problem.code, problem.file) for problem in problems] == [
        ("package_missing", str(root / "painter/broken.py"))
    ]


def test_all_broken_modules_are_reported_at_once(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "",
            "painter/app.py": APP,
            "painter/one.py": "import nonexistent_one",
            "painter/two.py": "1 / 0",
        }
    )
    codes = [problem.code for problem in discover(root, "painter.app").problems]
    assert codes == ["package_missing", "import_fails"]


def test_broken_submodules_can_be_tolerated(write_project: WriteProject) -> None:
    root = with_broken(write_project, "1 / 0")
    discovery = discover(root, "painter.app", skip_broken=True)
    assert discovery.problems == ()
    assert [problem.code for problem in discovery.warnings] == ["import_fails"]
    assert [spec.name for spec in discovery.functions] == ["paint"]


def test_a_broken_main_is_never_tolerated(write_project: WriteProject) -> None:
    root = write_project({"painter/__init__.py": "", "painter/app.py": "1 / 0"})
    discovery = discover(root, "painter.app", skip_broken=True)
    assert [problem.code for problem in discovery.problems] == ["import_fails"]


def test_a_missing_main_says_where_it_was_looked_for(write_project: WriteProject) -> None:
    root = write_project({"painter/__init__.py": "", "painter/app.py": APP})
    for main in ("nowhere", "nowhere.app", "painter.nowhere", "painter.app.nowhere"):
        (problem,) = discover(root, main).problems
        assert problem.code == "main_missing", main
        assert f"{str(root)!r} or from its src/" in problem.hint


def test_a_module_of_another_place_is_noticed(write_project: WriteProject) -> None:
    root = write_project({"queue.py": APP})
    import queue

    (problem,) = [p for p in discover(root, "queue").problems if p.code == "module_shadowed"]
    assert str(queue.__file__) in problem.message
    assert problem.file == str(root / "queue.py")


def test_ctrl_c_passes_through(write_project: WriteProject) -> None:
    root = with_broken(write_project, "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover(root, "painter.app")


def test_a_module_may_replace_itself(write_project: WriteProject) -> None:
    root = with_broken(write_project, "import sys\nsys.modules[__name__] = 3")
    assert discover(root, "painter.app") == Discovery(
        functions=discover(root, "painter.app").functions
    )
    (root / "painter/broken.py").write_text("import sys\ndel sys.modules[__name__]")
    assert [spec.name for spec in discover(root, "painter.app").functions] == ["paint"]
