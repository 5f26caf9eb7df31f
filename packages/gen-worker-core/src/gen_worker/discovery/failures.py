"""Why an author's module cannot be imported, in a sentence with a place and a remedy."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

import msgspec

from gen_worker.discovery.importing import is_inside
from gen_worker.problems import Problem, ProblemsError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["problems_of"]

# Where the package to install is named otherwise than the module it brings.
_PACKAGES = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dotenv": "python-dotenv",
    "google.protobuf": "protobuf",
    "jwt": "PyJWT",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def problems_of(error: BaseException, module: str, root: str) -> list[Problem]:
    """Explain what ended the import of `module`.

    Args:
        error: What importing raised.
        module: The module that was asked for; the culprit may be one that it imports.
        root: The project's directory, to tell its files from everybody else's.
    """
    module, file, line = _place(error.__traceback__, module, root)
    detail = _traceback(error)
    if isinstance(error, ProblemsError):
        return [_placed(problem, file, line, detail) for problem in error.problems]
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno or 0
    code, message, hint = _explain(error, module, root)
    return [Problem(code=code, message=message, hint=hint, file=file, line=line, detail=detail)]


def _placed(problem: Problem, file: str, line: int, detail: str) -> Problem:
    if problem.file:
        return msgspec.structs.replace(problem, detail=detail)
    return msgspec.structs.replace(problem, file=file, line=line, detail=detail)


def _explain(error: BaseException, module: str, root: str) -> tuple[str, str, str]:
    """Return code, message and hint."""
    text = _text(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _missing(error.name, module, root)
    if isinstance(error, SyntaxError):
        return "syntax_error", f"module {module!r} is not valid Python, {error.msg}", ""
    if isinstance(error, SystemExit):
        message = f"module {module!r} ends the program while it is imported"
        return "import_exits", message, 'put what it runs under `if __name__ == "__main__":`'
    if isinstance(error, KeyboardInterrupt):
        return "import_fails", f"module {module!r} raises KeyboardInterrupt when imported", ""
    if isinstance(error, ImportError):
        return "import_fails", f"module {module!r} cannot be imported, {text}", ""
    name = type(error).__name__
    return "import_fails", f"module {module!r} fails when imported, {name}: {text}".rstrip(": "), ""


def _missing(missing: str, module: str, root: str) -> tuple[str, str, str]:
    top = missing.partition(".")[0]
    if missing == module or module.startswith(f"{missing}."):
        message = f"there is no module {missing!r}"
        hint = f"write the import path that `main` has from {root!r} or from its src/"
        return "main_missing", message, hint
    if top == module.partition(".")[0]:
        message = f"module {module!r} imports {missing!r}, which does not exist"
        return "module_missing", message, "create it or correct the import"
    if top == "gen_worker":
        message = f"module {module!r} needs {missing!r}, which is not installed"
        return "package_missing", message, "add gen-worker to dependencies"
    package = _PACKAGES.get(missing, _PACKAGES.get(top, top))
    named = "" if package == top else f" ({package})"
    message = f"module {module!r} needs package {top!r}{named}, which is not installed"
    return "package_missing", message, f"install it, and list {package!r} in dependencies"


def _place(trace: TracebackType | None, module: str, root: str) -> tuple[str, str, int]:
    """Return module, file and line of the innermost code of the project."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    place = (module, getattr(spec, "origin", None) or "", 0)
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if is_inside(file, root):
            name = trace.tb_frame.f_globals.get("__name__")
            place = (name if isinstance(name, str) else module, file, trace.tb_lineno)
        trace = trace.tb_next
    return place


def _text(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())
    except BaseException as broken:  # an author's __str__ may raise anything
        return f"(its text cannot be read, {type(broken).__name__})"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # as above
        return type(error).__name__
