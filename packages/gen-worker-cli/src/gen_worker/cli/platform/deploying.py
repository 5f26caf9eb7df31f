"""From a project's folder to a release that a platform has."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from gen_worker.cli.failures import UsageError
from gen_worker.cli.host import local_owner
from gen_worker.cli.platform.api import find_api
from gen_worker.cli.platform.environments import environment_name, project_interpreter
from gen_worker.cli.platform.folder import DataFolder
from gen_worker.cli.platform.packing import pack
from gen_worker.cli.platform.projects import Deployed
from gen_worker.manifest import manifest_of, parse_lock
from gen_worker.names import slugify_name

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.platform.api import Api
    from gen_worker.manifest import Manifest

__all__ = ["default_owner", "deploy"]

_DEFAULT_TAG = "prod"
_START_S = 60.0
_LOOK_S = 0.02


def deploy(args: argparse.Namespace) -> Deployed:
    """Publish a project, and move the tags that are asked for.

    Raises:
        UsageError: The project cannot be published, or no platform is there.
        ApiError: The platform has refused.
    """
    root = _root(args.project)
    api = None if args.wait else find_api(args)
    interpreter = os.path.abspath(args.python) if args.python else project_interpreter(root)
    lock, manifest = _build_lock(root, interpreter)
    owner, endpoint = _name(args.name, manifest, root)
    api = api or _await_api(args)
    if args.unless_deployed:
        current = _current(api, owner, endpoint, args.tag or _DEFAULT_TAG)
        if current is not None:
            return current
    folder = DataFolder(args.data)
    environment = args.environment or _environment(folder, interpreter, endpoint)
    by = args.by or local_owner()
    query = {"owner": owner, "endpoint": endpoint, "environment": environment, "by": by}
    answer = _upload(api, root, lock, {**query, "tag": _DEFAULT_TAG}, folder)
    moved = [tag for tag in (args.tag, _DEFAULT_TAG if args.promote else "") if tag]
    for tag in dict.fromkeys(moved):
        move = {"owner": owner, "endpoint": endpoint, "tag": tag, "by": by}
        release_id = answer["release_id"]
        api.post("/v1/tags", {"action": "promote", **move, "release_id": release_id})
    first = [answer["change"]["tag"]] if answer["change"] else []
    return Deployed(
        owner=answer["owner"],
        endpoint=answer["endpoint"],
        release_id=answer["release_id"],
        is_new=answer["is_new"],
        functions=tuple(answer["functions"]),
        tags=tuple(dict.fromkeys([*first, *moved])),
    )


def default_owner() -> str:
    """Return whose endpoints these are unless somebody says."""
    return slugify_name(local_owner()) or "local"


def _root(named: str) -> str:
    folder = os.path.abspath(os.path.expanduser(named))
    root = os.path.dirname(folder) if os.path.isfile(folder) else folder
    if not os.path.isfile(os.path.join(root, "endpoint.toml")):
        raise UsageError(f"there is no endpoint.toml in {root!r}: name a project's folder")
    return root


def _name(given: str, manifest: Manifest, root: str) -> tuple[str, str]:
    owner, separator, endpoint = given.rpartition("/")
    if given and not (slugify_name(endpoint) and (slugify_name(owner) or not separator)):
        raise UsageError(
            f"--name {given!r} is no name: write [OWNER/]ENDPOINT, each with some of a-z0-9"
        )
    endpoint = endpoint or manifest.endpoint_name or os.path.basename(root)
    return slugify_name(owner) or default_owner(), slugify_name(endpoint)


def _build_lock(root: str, interpreter: str) -> tuple[bytes, Manifest]:
    """Import the project where it will run, in a process of its own, and return its lock.

    What that process writes is shown as it is.
    """
    with tempfile.TemporaryDirectory(prefix="gen-worker-") as folder:
        path = os.path.join(folder, "endpoint.lock")
        words = [interpreter, "-m", "gen_worker.discovery", "--root", root, "-o", path]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
            )
        except OSError as error:
            raise UsageError(f"cannot run {interpreter!r}: {error.strerror}") from error
        lines = [line for line in done.stderr.splitlines() if not line.startswith(f"wrote {path}")]
        if lines:
            print("\n".join(lines), file=sys.stderr, flush=True)
        if done.returncode:
            raise UsageError(f"{root!r} is not published: mend what is told above")
        manifest = manifest_of(parse_lock(path))
        with open(path, "rb") as file:
            return file.read(), manifest


def _await_api(args: argparse.Namespace) -> Api:
    """Return the platform once it answers; it was started just now."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            return find_api(args)
        except UsageError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_S)


def _environment(folder: DataFolder, interpreter: str, endpoint: str) -> str:
    """Return the name of an interpreter's environment; the folder remembers it."""
    known = dict(folder.interpreters())
    name = environment_name(interpreter, endpoint, known)
    if name not in known and interpreter != sys.executable:
        folder.name_environment(name, interpreter)
    return name


def _upload(
    api: Api, root: str, lock: bytes, query: dict[str, str], folder: DataFolder
) -> dict[str, Any]:
    with tempfile.TemporaryFile() as file:
        try:
            pack(root, lock, file, own_folder=folder.path)
        except OSError as error:
            raise UsageError(
                f"{root!r} is not published, a file changed or cannot be read: {error}"
            ) from error
        size = file.tell()
        file.seek(0)
        answer: dict[str, Any] = api.upload("/v1/releases", file, size, **query)
        return answer


def _current(api: Api, owner: str, endpoint: str, tag: str) -> Deployed | None:
    """Return the release that serves an endpoint; None when it has none."""
    rows = api.get("/v1/releases", owner=owner, endpoint=endpoint)["releases"]
    if not rows:
        return None
    meant = [row for row in rows if tag in row.get("tags", ())]
    row = (meant or rows)[0]
    return Deployed(
        owner=owner,
        endpoint=endpoint,
        release_id=row["release_id"],
        functions=tuple(row["functions"]),
    )
