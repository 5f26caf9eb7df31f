"""Find the endpoint functions of a project. The one engine behind the lock, the worker and the CLI.

It runs in the process that will call the functions, so it stays cheap: no `inspect`, no look at
schemas, no subprocess.
"""

from __future__ import annotations

import os
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.discovery.importing import DivertedOutput, Importer, is_inside, put_on_path
from gen_worker.problems import Problem, ProblemsError
from gen_worker.spec import DEFINITION_ATTRIBUTE, ClassSpec, FunctionSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Discovery", "DiscoveryError", "discover"]


class DiscoveryError(ProblemsError):
    """The project's functions could not all be found; `problems` lists every reason."""


class Discovery(msgspec.Struct, frozen=True, kw_only=True):
    """What a project offers, and what is wrong with it."""

    functions: tuple[FunctionSpec, ...] = ()
    """In the order of modules and then of lines; usable even when there are problems."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    """Broken modules that the caller chose to tolerate."""

    def raise_if_wrong(self) -> Discovery:
        """Return the discovery itself when it has no problem.

        Raises:
            DiscoveryError: It has some.
        """
        if self.problems:
            raise DiscoveryError(self.problems)
        return self


class Definition(NamedTuple):
    """One decorated function or class."""

    spec: FunctionSpec | ClassSpec
    functions: tuple[FunctionSpec, ...]


def discover(
    root: str | os.PathLike[str],
    main: str | Sequence[str],
    *,
    skip_broken: bool = False,
    watch: Callable[[str], None] | None = None,
) -> Discovery:
    """Import a project and return its functions.

    Imported are `main`, its top-level package and all submodules of that; functions and classes
    count where they are defined, once each, and only if the project defines them. Blocks for as
    long as the imports take; Ctrl-C passes through.

    Args:
        root: The project's directory; it and its `src` go to the front of `sys.path`.
        main: Dotted name of the module to import; several for an endpoint.lock's `module` values.
        skip_broken: Turn submodules that cannot be imported into warnings. `main` itself must work.
        watch: Told the name of each module just before it is imported.
    """
    folder = os.path.abspath(root)
    mains = [main] if isinstance(main, str) else list(dict.fromkeys(main))
    put_on_path(folder)
    importer = Importer(folder, watch)
    with DivertedOutput():
        modules = _load(importer, mains)
    problems, warnings = importer.problems, []
    if skip_broken and all(name in modules for name in mains):
        problems, warnings = [], importer.problems
    definitions = list(_collect(modules, folder))
    functions = tuple(spec for definition in definitions for spec in definition.functions)
    from gen_worker.discovery.checks import function_problems

    # Rows of one class share its mistakes.
    found = list(dict.fromkeys([*problems, *function_problems(functions)]))
    if not functions and not problems:
        found.append(_nothing(mains, modules))
    return Discovery(functions=functions, problems=tuple(found), warnings=tuple(warnings))


def _load(importer: Importer, mains: Iterable[str]) -> dict[str, ModuleType]:
    modules: dict[str, ModuleType] = {}
    for name in mains:
        top = name.partition(".")[0]
        if top not in modules:
            modules |= importer.load_tree(top)
        if top in modules and name not in modules:
            module = importer.load(name)
            if module is not None:
                modules[name] = module
    return modules


def _collect(modules: dict[str, ModuleType], root: str) -> Iterator[Definition]:
    """Yield the definitions of the walked modules, and of the project's modules they use."""
    order = {name: index for index, name in enumerate(modules)}
    pending = list(modules.values())
    found: dict[int, Definition] = {}
    while pending:
        for value in list(vars(pending.pop(0)).values()):
            definition = _definition(value)
            home = definition.spec.module if definition else _name_of_module(value)
            if home is None:
                continue
            if home not in order and _is_own(home, root):
                order[home] = len(order)
                pending.append(sys.modules[home])
            if definition and home in order:
                found.setdefault(id(definition.spec), definition)
    yield from sorted(found.values(), key=lambda one: (order[one.spec.module], one.spec.line))


def _definition(value: Any) -> Definition | None:
    # Only functions and classes are asked, and by their real type: proxies and lazy modules, whose
    # attributes may import or compute something, are left alone.
    if type(value) is not FunctionType and not issubclass(type(value), type):
        return None
    spec = value.__dict__.get(DEFINITION_ATTRIBUTE)
    if isinstance(spec, FunctionSpec):
        return Definition(spec, (spec,))
    return Definition(spec, spec.functions) if isinstance(spec, ClassSpec) else None


def _name_of_module(value: object) -> str | None:
    name = value.__dict__.get("__name__") if type(value) is ModuleType else None
    return name if isinstance(name, str) else None


def _is_own(module: str, root: str) -> bool:
    known = sys.modules.get(module)
    return type(known) is ModuleType and is_inside(known.__dict__.get("__file__"), root)


def _nothing(mains: list[str], modules: dict[str, ModuleType]) -> Problem:
    from gen_worker.endpoint.methods import marked_methods

    hint = "decorate one with @inference_function, or point `main` at the module that holds it"
    for module in modules.values():
        for name, value in vars(module).items():
            if isinstance(value, type) and next(marked_methods(value), None):
                hint = f"{name} has marked methods: decorate the class with @inference"
    return Problem(
        code="nothing_found",
        message=f"no endpoint function in {' or '.join(map(repr, mains))}",
        hint=hint,
    )
