"""Import a distribution where nothing but it and its dependencies is installed.

Usage: python -I ci/bare_import.py PART...

It runs in that bare environment, so it uses the standard library alone. `import gen_worker` must
load nothing but msgspec and the standard library; then every module of each part must import, which
fails where a distribution uses one it does not declare.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator

ALLOWED = frozenset({"gen_worker", "msgspec"})
# Plugins: whoever loads one has the library it plugs into.
PLUGINS = {"gen_worker.testing.fixtures": "pytest"}


def main(parts: list[str]) -> int:
    before = set(sys.modules)
    importlib.import_module("gen_worker")
    foreign = {name.partition(".")[0] for name in set(sys.modules) - before}
    foreign -= sys.stdlib_module_names | ALLOWED
    problems = [f"`import gen_worker` loads {name!r}" for name in sorted(foreign)]
    for name in _modules(parts):
        try:
            importlib.import_module(name)
        except ImportError as error:
            if error.name is not None and error.name == PLUGINS.get(name):
                continue
            problems.append(f"`import {name}` fails: {error}")
    print("\n".join(problems) or "bare import: ok")
    return 1 if problems else 0


def _modules(parts: list[str]) -> Iterator[str]:
    for part in parts:
        name = f"gen_worker.{part}"
        yield name
        path = getattr(sys.modules.get(name), "__path__", None)
        if path:
            found = pkgutil.walk_packages(path, f"{name}.")
            yield from (m.name for m in found if not m.name.endswith("__main__"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
