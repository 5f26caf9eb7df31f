"""One job in several processes: what the first one fetches and finds is for all."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from gen_worker.trainer.distributed.agreement import first_does
from gen_worker.trainer.inputs import Materialized
from gen_worker.trainer.loop.duties import OWED
from gen_worker.trainer.resume import ResumePoint
from gen_worker.trainer.state.moment import moment_of_rank

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.trainer.distributed.world import World
    from gen_worker.trainer.job_file import JobFile

__all__ = ["fetched", "point_of", "share_of"]


def share_of(job: JobFile, world: World) -> JobFile:
    """Return a job with this process's share of its batches, unless it names one."""
    if world.size == 1 or job.dataset.shard_count != 1:
        return job
    dataset = replace(job.dataset, shard_index=world.rank, shard_count=world.size)
    return replace(job, dataset=dataset)


def fetched(world: World, fetch: Callable[[], Materialized]) -> Materialized:
    """Have the first process fetch a job's inputs; collective.

    Raises:
        Exception: What `fetch` has raised, or in the other processes that it has.
    """
    if world.size == 1:
        return fetch()
    inputs: list[Materialized] = []

    def names() -> tuple[dict[str, str], tuple[str, ...]]:
        inputs.append(fetch())
        return inputs[0].model_handles, inputs[0].parquet_paths

    handles, paths = first_does(world, names)
    if inputs:
        return inputs[0]
    return Materialized(
        model_handles=handles,
        parquet_paths=tuple(paths),
        find_checkpoint=lambda: None,  # the first process goes to its place with all
        kept=ExitStack(),
    )


def point_of(world: World, find: Callable[[], ResumePoint | None]) -> ResumePoint | None:
    """Have the first process find where the run goes on, and return where this one does.

    Collective.

    Raises:
        Exception: What `find` has raised, or in the other processes that it has.
    """
    here: list[ResumePoint] = []

    def place() -> tuple[int, dict[str, Any], str, dict[str, Any]] | None:
        point = find()
        if point is None:
            return None
        here.append(point)
        return point.step, point.state, point.directory, point.runtime

    found = first_does(world, place)
    if found is None:
        return None
    point = here[0] if here else ResumePoint(*found)
    runtime = moment_of_rank(point.directory, point.runtime, world)
    runtime.pop(OWED, None)  # what is done since is known to the first process alone
    if OWED in point.runtime:
        runtime[OWED] = point.runtime[OWED]
    return point._replace(runtime=runtime)
