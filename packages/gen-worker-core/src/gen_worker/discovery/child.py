"""The process behind `build_lock`: imports one project and reports into a file.

`python -m gen_worker.discovery.child ENDPOINT_TOML REPORT [--skip-broken]`
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import msgspec

from gen_worker.discovery.checks import project_problems
from gen_worker.discovery.isolated import Report
from gen_worker.discovery.lock import function_entries, lock_table
from gen_worker.discovery.walk import Discovery, discover
from gen_worker.project import Project, load_project
from gen_worker.project.diagnosis import with_lines
from gen_worker.version import sdk_version

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["report_on"]


def report_on(project: Project, *, skip_broken: bool, into: BinaryIO) -> None:
    """Discover a project and write what was found."""
    importing = ""

    def watch(module: str) -> None:
        nonlocal importing
        importing = module
        _write(into, Report(importing=module))

    try:
        discovery = discover(project.root, project.main, skip_broken=skip_broken, watch=watch)
    except KeyboardInterrupt as error:
        # Ctrl-C does not reach this process, so it is the author's module that raised it.
        from gen_worker.discovery.failures import problems_of

        found = problems_of(error, importing, project.root)
        discovery = Discovery(problems=tuple(found))
    entries, undescribed = function_entries(discovery.functions, project)
    problems = [*discovery.problems, *undescribed]
    if not discovery.problems:  # otherwise functions may be missing that the file speaks of
        problems += with_lines(project_problems(project, discovery.functions), project.file)
    table = None if problems else lock_table(project, entries, sdk_version())
    _write(into, Report(table=table, problems=tuple(problems), warnings=discovery.warnings))


def _write(into: BinaryIO, report: Report) -> None:
    into.write(msgspec.json.encode(report) + b"\n")
    into.flush()


def main(toml: str, path: str, *flags: str) -> None:
    with open(path, "wb") as file:
        report_on(load_project(toml), skip_broken="--skip-broken" in flags, into=file)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    os._exit(0)  # threads that the author's modules started must not keep the build waiting


if __name__ == "__main__":
    main(*sys.argv[1:])
