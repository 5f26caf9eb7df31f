"""Compare the tables of docs/conversion.md with the methods in the code; `--update` writes them."""

import re
import sys
from collections.abc import Iterator, Sequence

from ci.workspace import ROOT, report
from gen_worker.conversion.convert.cells import CASTS, Form, cells
from gen_worker.conversion.gguf.types import NOT_WRITTEN, WRITTEN
from gen_worker.conversion.quantize.methods import METHODS, OTHERS_METHODS, Method

DOCUMENT = "docs/conversion.md"
HEADINGS: dict[Form, str] = {
    "pipeline": "pipeline",
    "folder": "folder of transformers",
    "file": "one file",
    "gguf file": "GGUF file",
    "pipeline to file": "`--layout singlefile`",
    "file to pipeline": "`--layout diffusers`",
}
OF_METHODS: tuple[Form, ...] = (
    *("pipeline", "folder", "file"),
    *("pipeline to file", "file to pipeline"),
)
OF_GGUF: tuple[Form, ...] = ("pipeline", "folder", "gguf file")
WORDS = {"whole": "yes", "text encoders": "text encoders", "none": "no"}
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
    head = ("`--to`", "bits", *(HEADINGS[form] for form in OF_METHODS), "scales", "written as")
    casts = [
        (f"`{token}`", token.lstrip("bfp"), *_made(token, OF_METHODS), "-", "safetensors")
        for token in CASTS
    ]
    return _table(head, [*casts, *map(_row, METHODS.values())])


def _row(method: Method) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in (method.name, *method.aliases))
    scales = ", ".join(method.granularities)
    if method.group_size:
        scales = f"{scales or 'group'} of {method.group_size}"
    return (
        names,
        f"{method.bits:g}",
        *_made(method.name, OF_METHODS),
        scales or "-",
        ", ".join("safetensors" if one == "plain" else one for one in method.layouts),
    )


def _made(token: str, forms: Sequence[Form]) -> Iterator[str]:
    """Yield whether a target is made of each kind of source."""
    found = {cell.form: cell for cell in cells() if cell.token == token}
    for form in forms:
        cell = found[form]
        with_data = ", with data" if cell.is_calibrated and cell.extent != "none" else ""
        yield f"{WORDS[cell.extent]}{with_data}"


def _elsewhere() -> str:
    rows = [
        (f"`{one.name}`", one.runtime, one.calibration, "yes" if one.requires_gpu else "no")
        for one in OTHERS_METHODS.values()
    ]
    return _table(("name", "runtime", "calibration", "needs a GPU"), rows)


def _gguf() -> str:
    rows = [
        (
            f"`gguf:{one.token}`",
            f"`{one.base}`",
            f"`{one.mix}`" if one.mix else "-",
            *_made(f"gguf:{one.token}", OF_GGUF),
        )
        for one in WRITTEN.values()
    ]
    refused = ", ".join(f"`{name}`" for name in sorted(NOT_WRITTEN))
    rows.append((refused, "refused by name", "-", *["no"] * len(OF_GGUF)))
    forms = [HEADINGS[form] for form in OF_GGUF]
    return _table(("`--to`", "most weights", "rules for the others", *forms), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("| --- ", "|---")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
