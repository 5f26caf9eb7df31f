"""Start a new endpoint project that runs and passes its tests as it is.

`gen-worker init my-endpoint` makes a folder of that name; `gen-worker init .` fills the current
one. Nothing that exists is ever overwritten.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main", "render"]

_TEMPLATE = os.path.join(os.path.dirname(__file__), "template")
_SUFFIX = ".tmpl"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="folder to make; its last part names the endpoint"
    )


def main(args: argparse.Namespace) -> int:
    folder = os.path.abspath(args.name)
    files = render(os.path.basename(folder))
    _refuse_existing(folder, files)
    for path, text in files.items():
        target = os.path.join(folder, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "x", encoding="utf-8") as file:
            file.write(text)
    print(_next_steps(folder), file=sys.stderr)
    return 0


def render(name: str) -> dict[str, str]:
    """Return the files of a new project: path below its folder, and content.

    Raises:
        UsageError: `name` cannot name an endpoint or the Python package behind it.
    """
    from gen_worker.names import slugify_name

    slug = slugify_name(name)
    module = _module_name(name, slug)
    files = {}
    for folder, _, names in sorted(os.walk(_TEMPLATE)):
        for file in sorted(names):
            if not file.endswith(_SUFFIX):
                continue
            path = os.path.relpath(os.path.join(folder, file.removesuffix(_SUFFIX)), _TEMPLATE)
            with open(os.path.join(folder, file), encoding="utf-8") as template:
                text = template.read()
            files[_target(path, module)] = text.replace("{{name}}", slug).replace(
                "{{module}}", module
            )
    return files


def _target(path: str, module: str) -> str:
    if path == "gitignore":
        return ".gitignore"
    top, _, rest = path.partition(os.sep)
    return os.path.join("src", module, rest) if top == "src" else path


def _module_name(name: str, slug: str) -> str:
    import keyword

    from gen_worker.cli.failures import UsageError

    module = slug.replace("-", "_").replace(".", "_")
    if not module.isidentifier() or keyword.iskeyword(module):
        raise UsageError(
            f"{name!r} cannot name a Python package: use letters, digits and dashes, and begin "
            "with a letter"
        )
    if module in sys.stdlib_module_names or module in ("gen_worker", "msgspec", "tests"):
        raise UsageError(f"{name!r} would hide the Python module {module!r}: choose another name")
    return module


def _refuse_existing(folder: str, files: dict[str, str]) -> None:
    from gen_worker.cli.failures import UsageError

    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f"{folder!r} is a file")
    existing = [path for path in files if os.path.lexists(os.path.join(folder, path))]
    if existing:
        raise UsageError(
            f"{folder!r} has {', '.join(existing)} already: nothing was written; choose another "
            "name"
        )


def _next_steps(folder: str) -> str:
    relative = os.path.relpath(folder)
    enter = "" if relative == "." else f"cd {relative} && "
    return f"created {folder}\ntry: {enter}gen-worker run Ada times=2"
