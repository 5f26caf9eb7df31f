"""Every Python sample of the documentation runs as written, and every link leads somewhere."""

import re
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
PAGES += sorted(ROOT.glob("packages/*/README.md"))
_SAMPLE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def _samples(page: Path) -> list[tuple[int, str]]:
    """Return line and text of each sample."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)) + 1, m[1]) for m in _SAMPLE.finditer(text)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if _samples(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_samples_run_in_order(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"sample_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    for line, sample in _samples(page):
        code = compile("\n" * (line - 1) + sample, str(page), "exec")
        exec(code, module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_exist(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing
