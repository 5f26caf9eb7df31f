"""Compare the tables of docs/conversion.md with the methods in the code; `--update` writes them."""

import re
import sys
from collections.abc import Sequence

from ci.workspace import ROOT, report
from gen_worker.conversion.cast import CAST_DTYPES
from gen_worker.conversion.gguf.types import NOT_WRITTEN, WRITTEN
from gen_worker.conversion.quantize.methods import LOADERS, METHODS, OTHERS_METHODS, Method

DOCUMENT = "docs/conversion.md"
TABLE = r"(?m)(^### {heading}\n\n)(?:\|.*\n)*"


def main(arguments: list[str]) -> int:
    path = ROOT / DOCUMENT
    text = path.read_text()
    fresh = with_tables(text, tables())
    if "--update" in arguments:
        path.write_text(fresh)
        text = fresh
    problems = [
        f"{DOCUMENT}: there is no heading {heading!r}"
        for heading in tables()
        if f"\n### {heading}\n\n" not in text
    ]
    if text != fresh:
        problems.append(
            f"{DOCUMENT} is not what the code says: `python -m ci.methods_table --update`"
        )
    return report("methods", problems)


def with_tables(text: str, found: dict[str, str]) -> str:
    """Return the document with these tables below their headings."""
    for heading, table in found.items():
        pattern = TABLE.format(heading=re.escape(heading))
        text = re.sub(pattern, rf"\g<1>{table}".replace("\\|", r"\\|"), text)
    return text


def tables() -> dict[str, str]:
    """Return the tables by heading."""
    return {
        "Methods and layouts": _methods(),
        "Methods with a runtime of their own": _elsewhere(),
        "Types of GGUF files": _gguf(),
    }


def _methods() -> str:
    head = (
        "`--to`",
        "bits",
        "pipeline",
        "folder of transformers",
        "one file",
        "scales",
        "written as",
    )
    casts = [
        (f"`{token}`", str(bits), *["yes"] * 3, "-", "safetensors")
        for token, bits in (("fp32", 32), ("fp16", 16), ("bf16", 16))
        if token in CAST_DTYPES
    ]
    return _table(head, [*casts, *map(_row, METHODS.values())])


def _row(method: Method) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in (method.name, *method.aliases))
    is_plain = "plain" in method.layouts
    reads = {
        library: is_plain or any(library in LOADERS[layout] for layout in method.layouts)
        for library in ("diffusers", "transformers")
    }
    scales = ", ".join(method.granularities)
    if method.group_size:
        scales = f"{scales or 'group'} of {method.group_size}"
    return (
        names,
        f"{method.bits:g}",
        "yes" if reads["diffusers"] else "text encoders",
        "yes" if reads["transformers"] else "no",
        "yes" if is_plain else "no",
        scales or "-",
        ", ".join("safetensors" if one == "plain" else one for one in method.layouts),
    )


def _elsewhere() -> str:
    rows = [
        (f"`{one.name}`", one.runtime, one.calibration, "yes" if one.requires_gpu else "no")
        for one in OTHERS_METHODS.values()
    ]
    return _table(("name", "runtime", "calibration", "needs a GPU"), rows)


def _gguf() -> str:
    rows = [
        (f"`gguf:{one.token}`", f"`{one.base}`", f"`{one.mix}`" if one.mix else "-")
        for one in WRITTEN.values()
    ]
    rows.append((", ".join(f"`{name}`" for name in sorted(NOT_WRITTEN)), "refused by name", "-"))
    return _table(("`--to`", "most weights", "rules for the others"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("| --- ", "|---")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
