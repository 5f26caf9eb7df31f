"""Compare `requirements.lock` with what a fresh resolution gives; `--update` rewrites it.

The resolution starts without the local `uv.lock`, which would pin what it already names, so drift
of the declared dependencies and tampering with the committed file both show.
"""

import difflib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ci.workspace import ROOT, report, uv

LOCK = ROOT / "requirements.lock"
EXPORT = (
    "--all-packages --all-extras --all-groups --no-emit-workspace --no-header"
    " --format requirements.txt --quiet"
).split()
SHOWN = 20


def main(arguments: list[str]) -> int:
    fresh = resolve()
    problems = [f"it names a host: {line}" for line in fresh.splitlines() if "://" in line]
    if "--update" in arguments:
        LOCK.write_text(fresh)
    problems += difference(LOCK.read_text() if LOCK.exists() else "", fresh)
    return report("requirements.lock", problems)


def resolve() -> str:
    """Lock the members' metadata in a directory of its own and export the result."""
    with tempfile.TemporaryDirectory() as copy:
        for source in (ROOT / "pyproject.toml", *ROOT.glob("packages/*/pyproject.toml")):
            target = Path(copy) / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        subprocess.run([uv(), "lock", "--quiet"], cwd=copy, check=True)
        command = [uv(), "export", *EXPORT]
        return subprocess.run(
            command, cwd=copy, check=True, stdout=subprocess.PIPE, text=True
        ).stdout


def difference(committed: str, fresh: str) -> list[str]:
    """Return the first differing lines and the remedy, or nothing."""
    diff = difflib.unified_diff(committed.splitlines(), fresh.splitlines(), n=0, lineterm="")
    changed = [line for line in diff if not line.startswith(("---", "+++", "@@"))]
    if not changed:
        return []
    remedy = f"{len(changed)} line(s) differ: run `nox -s lock -- --update` and commit the result"
    return [*changed[:SHOWN], remedy]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
