"""Write the import-linter contracts that hold the packages, and generated code, apart.

Which module belongs to which layer is read from the packages, so a new module is in the contracts
the day it is written. Usage: python -m ci.layers CONFIG, then lint-imports --config CONFIG.
"""

import sys
from pathlib import Path

from ci.workspace import IMPORT_ROOT, packages

STACK = ("gen-worker-runtime", "gen-worker-models", "gen-worker-core")
TOP = "gen-worker-cli"
MIDDLE = ("gen-worker-trainer", "gen-worker-conversion")
GENERATED = "gen_worker.pb"
GENERATED_IMPORTER = "gen_worker.runtime.wire"

HEAD = f"""\
[importlinter]
root_package = {IMPORT_ROOT}
exclude_type_checking_imports = True
"""

LAYERS = """
[importlinter:contract:{name}]
name = {title}
type = layers
layers =
{layers}
"""

FORBIDDEN = """
[importlinter:contract:{name}]
name = {title}
type = forbidden
source_modules =
{sources}
forbidden_modules =
{targets}
"""

PROTECTED = """
[importlinter:contract:generated]
name = only {importer} imports {target}
type = protected
protected_modules =
{target_row}
allowed_importers =
{importer_row}
"""


def main(config: str) -> int:
    Path(config).write_text(contracts({p.name: p.parts for p in packages().values()}))
    return 0


def contracts(parts: dict[str, tuple[str, ...]]) -> str:
    """Return the contracts.

    One chain through each middle package, a wall between the middle packages, and one door to the
    generated code.
    """
    text = HEAD
    for middle in MIDDLE:
        chain = (TOP, middle, *STACK)
        rows = [" : ".join(f"{IMPORT_ROOT}.{part}" for part in parts[name]) for name in chain]
        text += LAYERS.format(name=middle, title=" -> ".join(chain), layers=_rows(rows))
    for source, target in (MIDDLE, MIDDLE[::-1]):
        text += FORBIDDEN.format(
            name=f"{source}-alone",
            title=f"{source} does not import {target}",
            sources=_rows([f"{IMPORT_ROOT}.{part}" for part in parts[source]]),
            targets=_rows([f"{IMPORT_ROOT}.{part}" for part in parts[target]]),
        )
    return text + PROTECTED.format(
        importer=GENERATED_IMPORTER,
        target=GENERATED,
        importer_row=_rows([GENERATED_IMPORTER]),
        target_row=_rows([GENERATED]),
    )


def _rows(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
