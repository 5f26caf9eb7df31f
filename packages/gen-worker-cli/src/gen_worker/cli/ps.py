"""List a platform's processes, its workers and what they run.

Processes are those of the `gen-worker up` on this machine. Workers are all that are connected to
its scheduler, also those of other machines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.cli.platform.options import add_json_option, add_platform_options

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.platform.folder import PlatformFile

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    add_platform_options(parser)
    add_json_option(parser)


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.platform.api import find_api
    from gen_worker.cli.platform.folder import DataFolder
    from gen_worker.cli.platform.tables import ago, print_rows, size_words

    api = find_api(args)
    platform = DataFolder(args.data).read()
    is_ours = platform is not None and platform.is_running and platform.http == api.url
    rows = _processes(platform) if platform is not None and is_ours else []
    by_id = {row["worker_id"]: row for row in rows if row["worker_id"]}
    for worker in api.get("/v1/workers")["workers"]:
        row = by_id.get(worker["worker_id"])
        if row is None:
            rows.append(row := {"name": worker["worker_id"], "kind": "worker", "pid": None})
        row |= {"worker": worker, "state": worker["state"]}
    print_rows(
        rows,
        {
            "NAME": lambda row: row["name"],
            "KIND": lambda row: row["kind"],
            "PID": lambda row: row["pid"] or "-",
            "STATE": lambda row: row["state"],
            "UP": lambda row: ago(row.get("started_at")),
            "MEMORY": lambda row: size_words(row.get("memory_bytes")),
            "RESTARTS": lambda row: row.get("restarts", "-"),
            "MODELS": _models,
            "RUNS": _runs,
        },
        as_json=args.json,
        name="processes",
        nothing="nothing runs",
        more={"url": api.url},
        optional=frozenset({"MODELS"}),
    )
    return 0


def _processes(platform: PlatformFile) -> list[dict[str, Any]]:
    import msgspec

    from gen_worker.cli.platform.identity import memory_bytes

    supervisor = {
        "name": "up",
        "kind": "supervisor",
        "pid": platform.pid,
        "state": "running",
        "started_at": platform.started_at,
        "restarts": 0,
        "worker_id": "",
    }
    rows = [supervisor, *(msgspec.to_builtins(one) for one in platform.processes)]
    return [row | {"memory_bytes": memory_bytes(row["pid"])} for row in rows]


def _models(row: dict[str, Any]) -> str:
    """Return the models that a worker has, and where the quickest copy of each is."""
    models = row.get("worker", {}).get("models", {})
    return ", ".join(f"{ref} ({tier})" for ref, tier in sorted(models.items())) or "-"


def _runs(row: dict[str, Any]) -> str:
    worker = row.get("worker")
    if worker is None:
        return f"{row['endpoint']} {row['release_id'][:12]}" if row.get("endpoint") else "-"
    name = "/".join(filter(None, (worker["owner"], worker["endpoint"])))
    count = len(worker["running"])
    busy = f"{count} request{'' if count == 1 else 's'}" if count else "idle"
    return " ".join(filter(None, (name, worker["release_id"][:12], f"({busy})")))
