"""Compare each package's public names with its committed list; `--update` rewrites the lists.

Public are the names that core's root resolves, and what `__all__` lists in a module right below
`gen_worker` or in the `__init__` of a package further down; other modules are a package's own
business.
"""

import importlib
import sys
from collections.abc import Iterator

from ci.stubs import lazy_names, resolves
from ci.workspace import ROOT, Package, packages, report

LIST = "public-names.txt"
CORE = "gen-worker-core"


def main(arguments: list[str]) -> int:
    problems = []
    for package in (package for package in packages().values() if package.parts):
        path, found = package.path / LIST, list(public_names(package))
        if "--update" in arguments:
            path.write_text("".join(f"{name}\n" for name in found))
        known = path.read_text().splitlines() if path.exists() else []
        problems += differences(path.relative_to(ROOT).as_posix(), known, found)
    if problems:
        problems.append("if that is meant, run `nox -s api -- --update` and commit the lists")
    return report("api", problems)


def differences(listed_in: str, known: list[str], found: list[str]) -> list[str]:
    """Report the names that came and went."""
    new = [f"{listed_in}: {name} is public and not listed" for name in found if name not in known]
    return new + [f"{listed_in}: {name} is not public" for name in known if name not in found]


def public_names(package: Package) -> Iterator[str]:
    """Yield the full public names of a package, module by module."""
    if package.name == CORE:
        yield from (f"gen_worker.{name}" for name in sorted(lazy_names()) if resolves(name))
    inits = package.source.glob("*/**/__init__.py")
    for path in sorted([*package.source.glob("[!_]*.py"), *inits]):
        module = path.parent if path.stem == "__init__" else path.with_suffix("")
        parts = module.relative_to(package.source.parent).parts
        if not any(part.startswith("_") for part in parts):
            name = ".".join(parts)
            exported = getattr(importlib.import_module(name), "__all__", ())
            yield from (f"{name}.{export}" for export in sorted(exported))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
