"""Compare the tables of docs/environment.md with the settings in the code; `--update` writes them.

Every package's settings record says what its variables mean, so the tables are made from those:
one for each group, below its heading.
"""

import os
import re
import sys

from ci.workspace import ROOT, report
from gen_worker.settings import records, settings_in

DOCUMENT = "docs/environment.md"
HEADINGS = {
    "limits": "Limits",
    "local": "Running on your own machine",
    "models": "Models",
    "memory": "Memory",
    "orchestrator": "Given by the orchestrator",
    "scheduler": "The scheduler",
    "worker": "Workers",
    "trainer": "Training jobs",
    "tuning": "Tuning",
}
HEAD = "| variable | default | meaning |\n|---|---|---|\n"
TABLE = r"(?m)(^## {heading}\n\n)(?:\|.*\n)*"


def main(arguments: list[str]) -> int:
    path, groups = ROOT / DOCUMENT, rows_by_group()
    text = path.read_text()
    fresh = with_tables(text, groups)
    if "--update" in arguments:
        path.write_text(fresh)
        text = fresh
    problems = [
        f"the group {group!r} has no heading: add it to HEADINGS in ci/settings_table.py"
        for group in groups.keys() - HEADINGS.keys()
    ]
    problems += [
        f"{DOCUMENT}: there is no heading {HEADINGS[group]!r} for the group {group!r}"
        for group in groups.keys() & HEADINGS.keys()
        if f"\n## {HEADINGS[group]}\n\n" not in text
    ]
    if text != fresh:
        problems.append(f"{DOCUMENT} is not what the code says: run `nox -s settings -- --update`")
    return report("settings", problems)


def with_tables(text: str, groups: dict[str, list[str]]) -> str:
    """Return the document with the tables of these groups."""
    for group, rows in groups.items():
        pattern = TABLE.format(heading=re.escape(HEADINGS.get(group, group)))
        table = (HEAD + "".join(sorted(rows))).replace("\\", r"\\")
        text = re.sub(pattern, rf"\g<1>{table}", text)
    return text


def rows_by_group() -> dict[str, list[str]]:
    """Return a table row for each setting of every package."""
    groups: dict[str, list[str]] = {}
    for _, record in records():
        defaults = record()
        for field, _, setting in settings_in(record):
            notes = [setting.meaning.replace("|", r"\|")]
            if setting.aliases:
                notes.append(f"also {', '.join(setting.aliases)}")
            if setting.is_secret:
                notes.append("secret")
            default = written(getattr(defaults, field))
            row = f"| `{setting.env}` | {default} | {'; '.join(notes)} |\n"
            groups.setdefault(setting.group, []).append(row)
    return groups


def written(default: object) -> str:
    """Return a default as one would set it."""
    if default is None or default == "":
        return ""
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if isinstance(default, bool):
        default = str(int(default))
    if isinstance(default, float):
        default = f"{default:g}"
    text, home = str(default), os.path.expanduser("~")
    return f"`~{text[len(home) :]}`" if text.startswith(f"{home}/") else f"`{text}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
