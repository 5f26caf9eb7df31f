"""Import an author's modules: from the right place, one by one, without printing into results."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from gen_worker.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["DivertedOutput", "Importer", "is_inside", "put_on_path"]

_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def put_on_path(root: str) -> None:
    """Let imports find the project first: `root/src`, if there is one, then `root`."""
    for folder in (root, os.path.join(root, "src")):
        if os.path.isdir(folder):
            if folder in sys.path:
                sys.path.remove(folder)
            sys.path.insert(0, folder)


def is_inside(file: object, root: str) -> bool:
    """Tell whether a file is the project's own, and not installed below it (`root/.venv/…`)."""
    if not isinstance(file, str):
        return False
    for folder in (root, os.path.realpath(root)):
        inner = file.removeprefix(os.path.join(folder, ""))
        if inner != file:
            return not any(part in os.sep + inner for part in _INSTALLED)
    return False


class DivertedOutput:
    """While entered, what Python code prints goes to stderr: stdout carries results."""

    def __enter__(self) -> None:
        self._stdout = sys.stdout
        if sys.stderr is not None:
            sys.stdout = sys.stderr

    def __exit__(self, *_: object) -> None:
        sys.stdout = self._stdout


class Importer:
    """Imports modules and keeps what went wrong with each."""

    def __init__(self, root: str, watch: Callable[[str], None] | None = None) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self._watch = watch

    def load(self, name: str) -> ModuleType | None:
        """Import one module; None and a noted problem when that fails.

        Ctrl-C passes; everything else an author's module can raise is a mistake of that module.
        """
        if self._watch is not None:
            self._watch(name)
        try:
            __import__(name)
            module = sys.modules[name]
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            from gen_worker.discovery.failures import problems_of

            for problem in problems_of(error, name, self.root):
                self._note(problem)
            return None
        # A module may put anything into sys.modules in its own place, so its real type is asked.
        return module if issubclass(type(module), ModuleType) else None

    def _note(self, problem: Problem) -> None:
        # Many modules may stumble over one broken import, each with a traceback of its own.
        if str(problem) not in map(str, self.problems):
            self.problems.append(problem)

    def load_tree(self, top: str) -> dict[str, ModuleType]:
        """Import a module and, if it is a package, all its submodules, in the order of their names.

        A module whose package fails is not tried: it would only fail for the same reason.
        """
        loaded: dict[str, ModuleType] = {}
        seen: set[str] = set()
        pending = [top]
        while pending:
            name = pending.pop()
            module = self.load(name)
            if module is not None:
                loaded[name] = module
                pending += reversed(list(self._submodules(name, module, seen)))
        if top in loaded:
            self._report_shadow(top, loaded[top])
        return loaded

    def _report_shadow(self, top: str, module: ModuleType) -> None:
        """Report that a module of the same name was imported instead of the project's."""
        for folder in (os.path.join(self.root, "src"), self.root):
            own = [os.path.join(folder, top, "__init__.py"), os.path.join(folder, f"{top}.py")]
            existing = next((file for file in own if os.path.isfile(file)), None)
            if existing is None:
                continue
            other = module.__dict__.get("__file__")
            if not is_inside(other, self.root):
                self.problems.append(_shadowed(top, existing, other))
            return

    def _submodules(self, name: str, package: ModuleType, seen: set[str]) -> Iterator[str]:
        found: set[str] = set()
        for folder in self._folders(package):
            real = os.path.realpath(folder)
            if real not in seen:  # a link to an outer folder would never end
                seen.add(real)
                found |= set(_importable_names(folder))
        for stem in sorted(found):
            yield f"{name}.{stem}"

    def _folders(self, package: ModuleType) -> list[str]:
        try:
            folders = [str(folder) for folder in package.__dict__.get("__path__", ())]
        except TypeError:
            return []
        # The parts of a namespace that others installed are not the author's.
        return [f for f in folders if is_inside(f + os.sep, self.root)] or folders


def _importable_names(folder: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        stem, dot, extension = entry.name.partition(".")
        if not stem.isidentifier() or stem in ("__init__", "__main__"):
            continue  # importing __main__ would run the author's program
        if extension == "py" or (
            not dot and os.path.isfile(os.path.join(entry.path, "__init__.py"))
        ):
            yield stem


def _shadowed(top: str, own: str, other: object) -> Problem:
    return Problem(
        code="module_shadowed",
        message=f"module {top!r} was imported from {other or 'the interpreter itself'}, not from "
        "the project",
        hint="give the project's package another name",
        file=own,
    )
