"""What of a project is stored, what is refused, and what is said of a release that was damaged."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gen_worker.manifest import LockError, dump_lock
from gen_worker.runtime.scheduler.releases import (
    DamagedReleaseError,
    ProjectChangedError,
    RefusedReleaseError,
    ReleaseLimits,
    ReleaseStore,
    ReleaseWriteError,
    StoredRelease,
    copying,
)
from gen_worker.runtime.scheduler.releases import project as project_module
from gen_worker.runtime.scheduler.releases import store as store_module

LOCK = dump_lock({"lock_version": 1, "functions": [{"name": "draw", "module": "paint"}]}).encode()


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "data")


def put(store: ReleaseStore, project: Path, lock: bytes = LOCK, env: str = "cpu") -> StoredRelease:
    release, _ = store.put(project, lock=lock, environment=env)
    return release


def tree(folder: str) -> dict[str, str]:
    """Return what is below a folder: the text of files, and where links lead."""
    found = {}
    for path in Path(folder).rglob("*"):
        if path.is_symlink():
            found[path.relative_to(folder).as_posix()] = f"-> {path.readlink()}"
        elif path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_text()
    return found


def writable(release: StoredRelease, path: str = "src/paint.py") -> str:
    """Return a file of a release, in a folder that can be written."""
    full = os.path.join(release.source, path)
    os.chmod(os.path.dirname(full), 0o755)
    return full


def left_over(store: ReleaseStore) -> list[str]:
    return os.listdir(os.path.join(store.folder, "work"))


def test_a_release_is_what_its_project_was(store: ReleaseStore, make_project: Any) -> None:
    project = make_project()
    (project / "tool").write_text("run")
    (project / "tool").chmod(0o700)
    (project / "alias.py").symlink_to("src/paint.py")
    (project / "code").symlink_to("src")
    release = store.open(put(store, project).release_id)
    assert release.contents.environment == "cpu"
    assert tree(release.source) == {
        "pyproject.toml": "[project]\n",
        "src/paint.py": "one\n",
        "tool": "run",
        "alias.py": "-> src/paint.py",
        "code": "-> src",
    }
    assert os.stat(os.path.join(release.source, "tool")).st_mode & 0o777 == 0o555
    assert os.stat(os.path.join(release.source, "src/paint.py")).st_mode & 0o777 == 0o444
    assert os.stat(os.path.join(release.source, "src")).st_mode & 0o777 == 0o555
    with open(release.lock, "rb") as file:
        assert file.read() == LOCK
    assert left_over(store) == []


def test_what_runs_and_tools_leave_is_no_part_of_it(store: ReleaseStore, make_project: Any) -> None:
    release = put(store, make_project())
    others = (
        ".git/HEAD",
        ".venv/bin/python",
        "src/__pycache__/paint.cpython-312.pyc",
        "src/old.pyc",
        ".gen-worker-run/x",
        "outputs/image.png",
        ".env",
        "node_modules/a/b.js",
        "src/paint.egg-info/PKG-INFO",
    )
    project = make_project(**dict.fromkeys(others, "x"))
    assert put(store, project).release_id == release.release_id
    project = make_project(**{"src/outputs/__init__.py": ""})
    assert "src/outputs/__init__.py" in tree(put(store, project).source)


def test_a_store_inside_of_the_project_is_no_part_of_it(make_project: Any) -> None:
    project = make_project()
    inside = ReleaseStore(project / "data")
    first = put(inside, project)
    assert put(inside, project).release_id == first.release_id
    assert set(tree(first.source)) == {"pyproject.toml", "src/paint.py"}


def test_everything_of_a_release_counts(store: ReleaseStore, make_project: Any) -> None:
    project = make_project()
    first = put(store, project)
    ids = {first.release_id, put(store, project, env="gpu").release_id}
    ids.add(put(store, project, lock=LOCK + b"# more\n").release_id)
    (project / "src/paint.py").chmod(0o755)
    ids.add(put(store, project).release_id)
    (project / "src/paint.py").write_text("two\n")
    ids.add(put(store, project).release_id)
    (project / "src/link.py").symlink_to("paint.py")
    ids.add(put(store, project).release_id)
    assert len(ids) == 6
    assert set(store.ids()) == ids
    for release_id in ids:
        assert store.open(release_id).release_id == release_id


def test_equal_files_are_kept_once(store: ReleaseStore, make_project: Any) -> None:
    first = put(store, make_project())
    second = put(store, make_project(**{"src/new.py": "new"}))
    same = [os.stat(os.path.join(one.source, "src/paint.py")).st_ino for one in (first, second)]
    assert same[0] == same[1]
    store.remove(second.release_id)
    assert store.ids() == (first.release_id,)
    assert store.open(first.release_id) == first
    assert len(os.listdir(os.path.join(store.folder, "blobs"))) == 2
    store.remove(first.release_id)
    assert os.listdir(os.path.join(store.folder, "blobs")) == []


def test_a_disk_without_links_keeps_copies(
    store: ReleaseStore, make_project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    project = make_project()
    first = put(store, project)
    (project / "src/new.py").write_text("new")
    second = put(store, project)
    assert store.open(first.release_id) == first
    assert store.open(second.release_id) == second


def test_everything_that_cannot_be_stored_is_told_at_once(
    store: ReleaseStore, make_project: Any
) -> None:
    project = make_project(**{".venv/bin/python": "x"})
    (project / "outside").symlink_to("../elsewhere")
    (project / "absolute").symlink_to(project / "src")
    (project / "gone").symlink_to("nowhere")
    (project / "to-env").symlink_to(".venv/bin/python")
    (project / "loop").symlink_to("loop")
    (project / "back\\slash").write_text("")
    os.mkfifo(project / "pipe")
    with pytest.raises(RefusedReleaseError) as caught:
        put(store, project)
    told = "\n".join(caught.value.problems)
    for name in ("outside", "absolute", "gone", "to-env", "loop", "back", "pipe"):
        assert name in told
    assert len(caught.value.problems) == 7
    assert store.ids() == ()
    assert left_over(store) == []


def test_a_link_through_links_stays_inside(store: ReleaseStore, make_project: Any) -> None:
    project = make_project(**{"a/b/c/x": "", ".venv/x": "", "top/y": ""})
    (project / "a/b/back").symlink_to("../../top")
    (project / "good").symlink_to("./a/b/back/y")
    assert "good" in tree(put(store, project).source)
    (project / "out").symlink_to("a/b/back/../../../pyproject.toml")
    (project / "by-env").symlink_to(".venv/../top/y")
    with pytest.raises(RefusedReleaseError) as caught:
        put(store, project)
    assert len(caught.value.problems) == 2


def test_a_file_that_cannot_be_read_is_named(
    store: ReleaseStore, make_project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, opened = make_project(), os.open

    def refuse(path: str, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("project/pyproject.toml"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RefusedReleaseError, match=r"'pyproject\.toml' cannot be read"):
        put(store, project)


def test_a_project_is_as_large_as_it_may_be(tmp_path: Path, make_project: Any) -> None:
    project = make_project(**{"weights.bin": "x" * 100, "more.txt": "y" * 50})

    def refused(**limits: int) -> str:
        with pytest.raises(RefusedReleaseError) as caught:
            put(ReleaseStore(tmp_path / "data", ReleaseLimits(**limits)), project)
        return str(caught.value)

    assert "'weights.bin' has 100 bytes, at most 99" in refused(max_file_bytes=99)
    assert "the largest are 'weights.bin' with 100, 'more.txt' with 50" in refused(max_bytes=163)
    assert "more than 3 files" in refused(max_files=3)
    exact = ReleaseLimits(max_file_bytes=100, max_bytes=164, max_files=4)
    assert put(ReleaseStore(tmp_path / "data", exact), project)


def test_an_empty_or_missing_project_is_refused(store: ReleaseStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefusedReleaseError, match="there is no file in it"):
        put(store, tmp_path / "empty")
    with pytest.raises(RefusedReleaseError, match="cannot be read"):
        put(store, tmp_path / "missing")


def test_a_lock_that_is_none_is_refused(store: ReleaseStore, make_project: Any) -> None:
    with pytest.raises(LockError):
        put(store, make_project(), lock=b"= nothing")
    assert left_over(store) == []


@pytest.mark.parametrize("change", ["write", "replace", "add", "remove"])
def test_a_file_that_changes_while_it_is_copied_is_noticed(
    store: ReleaseStore, make_project: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    project = make_project()
    path = project / "src/paint.py"
    copy = copying.copied

    def copied_and_changed(root: str, one: Any, target: str) -> Any:
        copy_of_it = copy(root, one, target)
        if one.path == "src/paint.py":
            if change == "write":
                path.write_text("two, longer\n")
            elif change == "replace":
                (project / "new").write_text("one\n")
                (project / "new").rename(path)
            elif change == "add":
                (project / "src/paint2.py").write_text("")
            else:
                path.unlink()
        return copy_of_it

    monkeypatch.setattr(store_module, "copied", copied_and_changed)
    with pytest.raises(ProjectChangedError) as caught:
        put(store, project)
    assert caught.value.path == ("src/paint2.py" if change == "add" else "src/paint.py")
    assert store.ids() == ()
    assert left_over(store) == []


def test_a_file_that_became_a_link_is_not_followed(
    store: ReleaseStore, make_project: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = make_project()
    (tmp_path / "secret").write_text("secret")
    scan = project_module.scan

    def scanned(*arguments: Any, **options: Any) -> Any:
        found = scan(*arguments, **options)
        (project / "src/paint.py").unlink()
        (project / "src/paint.py").symlink_to(tmp_path / "secret")
        return found

    monkeypatch.setattr(store_module, "scan", scanned)
    with pytest.raises(ProjectChangedError, match=r"src/paint\.py"):
        put(store, project)


def damage_bytes(release: StoredRelease) -> str:
    path = writable(release)
    os.chmod(path, 0o644)
    with open(path, "r+") as file:
        file.write("two\n")
    return "source/src/paint.py"


def damage_length(release: StoredRelease) -> str:
    path = writable(release)
    os.chmod(path, 0o644)
    os.truncate(path, 1)
    return "source/src/paint.py"


def damage_mode(release: StoredRelease) -> str:
    os.chmod(writable(release), 0o755)
    return "source/src/paint.py"


def damage_absence(release: StoredRelease) -> str:
    os.unlink(writable(release))
    return "source/src/paint.py"


def damage_kind(release: StoredRelease) -> str:
    path = writable(release)
    os.rename(path, f"{path}.pyc")
    os.symlink("paint.py.pyc", path)
    return "source/src/paint.py"


def damage_link(release: StoredRelease) -> str:
    path = writable(release, "link.py")
    os.unlink(path)
    os.symlink("pyproject.toml", path)
    return "source/link.py"


def damage_company(release: StoredRelease) -> str:
    with open(f"{writable(release)}.more", "w"):
        return "source/src/paint.py.more"


def damage_lock(release: StoredRelease) -> str:
    os.chmod(release.lock, 0o600)
    with open(release.lock, "a") as file:
        file.write("#")
    return "endpoint.lock"


def damage_contents(release: StoredRelease) -> str:
    path = os.path.join(os.path.dirname(release.lock), "release.json")
    os.chmod(path, 0o600)
    os.truncate(path, 10)
    return "release.json"


def damage_half(release: StoredRelease) -> str:
    os.unlink(os.path.join(os.path.dirname(release.lock), "release.json"))
    return "release.json"


DAMAGES = [
    damage_bytes,
    damage_length,
    damage_mode,
    damage_absence,
    damage_kind,
    damage_link,
    damage_company,
    damage_lock,
    damage_contents,
    damage_half,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_release_is_named_with_its_file_and_mended(
    store: ReleaseStore, make_project: Any, damage: Any
) -> None:
    project = make_project()
    (project / "link.py").symlink_to("src/paint.py")
    release = put(store, project)
    path = damage(release)
    with pytest.raises(DamagedReleaseError, match="publish the same project") as caught:
        store.open(release.release_id)
    assert (caught.value.path, caught.value.release_id) == (path, release.release_id)
    assert put(store, project) == release
    assert store.open(release.release_id) == release
    assert left_over(store) == []


def test_what_python_leaves_in_a_release_is_no_damage(
    store: ReleaseStore, make_project: Any
) -> None:
    release = put(store, make_project())
    os.chmod(os.path.join(release.source, "src"), 0o755)
    os.mkdir(os.path.join(release.source, "src/__pycache__"))
    assert store.open(release.release_id) == release


def test_what_a_crash_left_is_swept(store: ReleaseStore, make_project: Any) -> None:
    project = make_project()
    wanted = put(store, project)
    (project / "src/paint.py").write_text("two\n")
    orphan = put(store, project)
    os.makedirs(os.path.join(store.folder, "work", "half", "draft"))
    assert ReleaseStore(store.folder).sweep({wanted.release_id}) == (orphan.release_id,)
    assert store.ids() == (wanted.release_id,)
    assert left_over(store) == []
    assert len(os.listdir(os.path.join(store.folder, "blobs"))) == 2
    assert store.open(wanted.release_id) == wanted


def test_many_publish_the_same_at_once(store: ReleaseStore, make_project: Any) -> None:
    project = make_project()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: put(store, project), range(16)))
    assert set(store.ids()) == {release.release_id for release in found}
    assert len(store.ids()) == 1
    assert store.open(found[0].release_id) == found[0]
    assert left_over(store) == []


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReleaseWriteError, match="let the scheduler's user write it"):
        ReleaseStore(tmp_path / "file")


def test_a_full_disk_leaves_nothing(
    store: ReleaseStore, make_project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "make_durable", full)
    with pytest.raises(ReleaseWriteError, match="make room on its disk"):
        put(store, make_project())
    assert store.ids() == ()
    assert left_over(store) == []
