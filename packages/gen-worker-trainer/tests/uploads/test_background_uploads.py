"""What a run makes arrives while it goes on, once, and its end is told last."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.errors import AuthError
from gen_worker.models.fetch import RetryLimits
from gen_worker.trainer.checkpoints import CheckpointStore
from gen_worker.trainer.errors import ArtifactUploadError, StartupContractError
from gen_worker.trainer.job_file import UploadUrls
from gen_worker.trainer.uploads import BackgroundUploader, open_uploader
from gen_worker.trainer.uploads.callbacks import Callbacks
from gen_worker.trainer.uploads.lanes import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Peer, RunningHub
    from gen_worker.trainer.config import RunConfig

    MakeConfig = Callable[..., RunConfig]

QUICK = RetryLimits(factor_s=0.001, cap_s=0.001, max_tries=4, max_elapsed_s=600.0)
KINDS = ("metrics", "checkpoint", "sample", "terminal")


def urls(peer: Peer, *kinds: str) -> dict[str, str]:
    return {f"{kind}_url": f"{peer.url}/{kind}" for kind in kinds or KINDS}


def keep(root: str, step: int, *, is_final: bool = False, size: int = 150_000) -> str:
    """Keep a checkpoint as a run does; return the path of its main file."""
    with CheckpointStore(root) as store, store.building(step, is_final=is_final) as draft:
        os.makedirs(os.path.join(draft.directory, "optim"))
        for name in ("model.safetensors", "optim/state.safetensors"):
            with open(os.path.join(draft.directory, name), "wb") as file:
                file.write(os.urandom(size))
        main = os.path.join(draft.directory, "model.safetensors")
        kept = draft.commit("run-7", {"a": 1}, trainer_checkpoint={"primary_path": main})
    return kept.primary_path


@pytest.fixture
def make_uploader(tmp_path: Path) -> Iterator[Callable[..., BackgroundUploader]]:
    """Make uploaders that try quickly, and tell nobody but the peer."""
    made: list[BackgroundUploader] = []

    def make(peer_url: str, **options: Any) -> BackgroundUploader:
        told = UploadUrls(**{f"{kind}_url": f"{peer_url}/{kind}" for kind in KINDS})
        timeout_s = options.pop("timeout_s", 60.0)
        callbacks = Callbacks(
            told, request_id="run-7", token="t0ken", tries=QUICK, timeout_s=timeout_s
        )
        made.append(
            BackgroundUploader(
                callbacks,
                None,
                CancelToken(),
                staging=str(tmp_path / "staging"),
                **{"drain_seconds": 60.0, **options},
            )
        )
        return made[-1]

    yield make
    for uploader in made:
        uploader.close()


def test_callbacks_have_exactly_the_documented_bodies(
    peer: Peer, tmp_path: Path, make_uploader: Callable[..., BackgroundUploader]
) -> None:
    final = keep(str(tmp_path / "c"), 5, is_final=True)
    step = keep(str(tmp_path / "c"), 3)
    sample = tmp_path / "step-00000003-00.json"
    sample.write_bytes(b"{}")
    uploader = make_uploader(peer.url)
    uploader.upload_metrics(metrics={"train/loss": 2.5, "bad": float("nan")}, step=2)
    uploader.upload_checkpoint(local_path=step, step=3)
    uploader.upload_sample(local_path=str(sample), step=3)
    uploader.upload_terminal(status="completed", step=5, final_checkpoint=final)
    nothing = {"blob_digest": "", "snapshot_digest": ""}
    common = {"request_id": "run-7", "file_ref": "", "sha256": "", "uploaded_size_bytes": 0}
    (metrics,) = peer.at("/metrics")
    assert metrics.told == {
        "request_id": "run-7",
        "kind": "metrics",
        "step": 2,
        "metrics": {"train/loss": 2.5},
    }
    assert b'{"kind":"metrics","metrics":' in metrics.body
    assert metrics.headers["authorization"] == "Bearer t0ken"
    assert metrics.headers["content-type"] == "application/json"
    checkpoint = {**common, **nothing, "kind": "checkpoint", "size_bytes": 150_000}
    assert [one.told for one in peer.at("/checkpoint")] == [
        {**checkpoint, "step": 3, "local_path": step, "final": False},
        {**checkpoint, "step": 5, "local_path": final, "final": True},
    ]
    assert [one.told for one in peer.at("/sample")] == [
        {**common, "kind": "sample", "step": 3, "local_path": str(sample), "size_bytes": 2}
    ]
    assert [one.told for one in peer.at("/terminal")] == [
        {
            "request_id": "run-7",
            "kind": "terminal",
            "status": "completed",
            "step": 5,
            "final_checkpoint": final,
            "final_checkpoint_ref": "",
            "final_checkpoint_sha256": "",
            "error": "",
        }
    ]
    assert peer.asked[-1].path == "/terminal"


@pytest.mark.parametrize("bad", [[503, 503], [429, 500], ["close", 503], ["close", "close"]])
def test_a_server_that_fails_for_a_while_is_told_in_the_end(
    bad: list[Any], peer: Peer, make_uploader: Callable[..., BackgroundUploader]
) -> None:
    for kind in KINDS:
        peer.plans[f"/{kind}"].extend(bad)
    uploader = make_uploader(peer.url)
    uploader.upload_metrics(metrics={"a": 1.0}, step=1)
    uploader.upload_checkpoint(local_path="/nowhere.json", step=1)
    uploader.upload_terminal(status="completed", step=1, final_checkpoint=None)
    for kind in ("metrics", "checkpoint", "terminal"):
        asked = peer.at(f"/{kind}")
        assert len(asked) == 3
        assert len({one.headers["idempotency-key"] for one in asked}) == 1


def test_a_server_that_hangs_is_left_and_asked_again(
    peer: Peer, make_uploader: Callable[..., BackgroundUploader]
) -> None:
    peer.plans["/terminal"].append("hang")
    uploader = make_uploader(peer.url, timeout_s=5.0)
    uploader.upload_terminal(status="failed", step=0, final_checkpoint=None, error="input:x")
    asked = peer.at("/terminal")
    assert len(asked) >= 2
    assert asked[-1].told["error"] == "input:x"


def test_lost_metrics_and_samples_are_warned_of(
    peer: Peer, tmp_path: Path, make_uploader: Callable[..., BackgroundUploader]
) -> None:
    warnings: list[str] = []
    peer.plans["/metrics"].extend([503] * 4)
    peer.plans["/sample"].append(401)
    uploader = make_uploader(peer.url, warn=warnings.append)
    uploader.upload_metrics(metrics={"a": 1.0}, step=1)
    uploader.upload_sample(local_path=str(tmp_path / "none"), step=2)
    assert uploader.drain(60)
    uploader.upload_metrics(metrics={"a": 2.0}, step=3)
    uploader.upload_terminal(status="completed", step=3, final_checkpoint=None)
    assert sorted(one[:27] for one in warnings) == [
        "the metrics of step 1 could",
        "the sample of step 2 could ",
    ]
    assert not any("t0ken" in one or peer.url in one for one in warnings)
    assert peer.at("/metrics")[-1].told["step"] == 3


@pytest.mark.parametrize(
    ("answers", "error"),
    [([503] * 4, ArtifactUploadError), ([404], ArtifactUploadError), ([401], AuthError),
     ([403], AuthError), ([302], ArtifactUploadError)],
)  # fmt: skip
def test_a_lost_checkpoint_fails_the_next_call_and_the_end_is_still_told(
    answers: list[int],
    error: type[Exception],
    peer: Peer,
    make_uploader: Callable[..., BackgroundUploader],
) -> None:
    peer.plans["/checkpoint"].extend(answers)
    uploader = make_uploader(peer.url)
    uploader.upload_checkpoint(local_path="/nowhere.json", step=1)
    assert uploader.drain(60)
    calls: tuple[Callable[[], object], ...] = (
        lambda: uploader.upload_metrics(metrics={"a": 1.0}, step=2),
        lambda: uploader.upload_checkpoint(local_path="/nowhere.json", step=2),
        lambda: uploader.upload_terminal(status="completed", step=2, final_checkpoint=None),
    )
    for call in calls:
        with pytest.raises(error):
            call()
    assert len(peer.at("/checkpoint")) == len(answers)
    assert peer.at("/terminal") == []
    uploader.upload_terminal(status="failed", step=2, final_checkpoint=None, error="upload:x")
    assert [one.told["status"] for one in peer.at("/terminal")] == ["failed"]


def test_nobody_there_is_an_upload_error(make_uploader: Callable[..., BackgroundUploader]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    uploader = make_uploader(f"http://127.0.0.1:{port}")
    with pytest.raises(ArtifactUploadError):
        uploader.upload_terminal(status="completed", step=1, final_checkpoint=None)


def test_the_end_does_not_wait_for_ever(
    peer: Peer, make_uploader: Callable[..., BackgroundUploader]
) -> None:
    peer.plans["/checkpoint"].append("hang")
    uploader = make_uploader(peer.url)
    uploader.upload_checkpoint(local_path="/nowhere.json", step=1)
    peer.wait_for("/checkpoint", 1)
    with pytest.raises(ArtifactUploadError, match="upload_drain_seconds"):
        uploader.upload_terminal(
            status="completed", step=1, final_checkpoint=None, drain_seconds=0.05
        )
    uploader.upload_terminal(status="failed", step=1, final_checkpoint=None)
    assert [one.told["status"] for one in peer.at("/terminal")] == ["failed"]


def test_metrics_that_pile_up_are_joined_in_order() -> None:
    go, done = threading.Event(), []

    def work(item: list[int]) -> None:
        assert go.wait(60)
        done.append(item)

    started: Lane[list[int]] = Lane("t", work, capacity=3, merge=lambda a, b: a + b)
    for number in range(20):
        assert started.put([number])
    go.set()
    assert started.drain(time.monotonic() + 60)
    started.close()
    assert [one for item in done for one in item] == list(range(20))
    assert len(done) <= 4 + 1


def test_a_full_lane_takes_nothing_more_unless_it_is_awaited() -> None:
    begun, go, done = threading.Event(), threading.Event(), []

    def work(item: int) -> None:
        begun.set()
        assert go.wait(60)
        done.append(item)

    lane: Lane[int] = Lane("t", work, capacity=1)
    assert lane.put(1)
    assert begun.wait(60)
    assert lane.put(2)
    assert not lane.put(3)
    assert not lane.put(4, patience_s=0.01)
    go.set()
    assert lane.put(5, patience_s=60)
    assert lane.drain(time.monotonic() + 60)
    lane.close()
    assert done == [1, 2, 5]
    assert not lane.put(6)


def test_nothing_is_opened_without_anybody_to_tell(make_config: MakeConfig) -> None:
    assert open_uploader(make_config()) is None
    with pytest.raises(StartupContractError) as raised:
        open_uploader(make_config(uploads={"metrics_url": "ftp://x"}))
    assert raised.value.code == "startup.invalid_upload_url"


def published(hub: RunningHub, repo: str = "acme/clf") -> dict[str, Any]:
    with hub.client() as client:
        owner, _, name = repo.partition("/")
        return {entry["path"]: entry for entry in client.tree(owner, name)}


def hub_config(hub: RunningHub, peer: Peer, make_config: MakeConfig, **fields: Any) -> RunConfig:
    token = hub.local.issue_capability(publish=["acme/clf"], create=("acme", ["clf"]))
    hints = {"kind": "training", "destination_repo": "acme/clf", "job_id": "j1"}
    return make_config(
        **{
            "capability_token": token,
            "execution_hints": hints,
            "uploads": urls(peer),
            "destination": {"tags": ["v2"]},
            **fields,
        }
    )


def test_every_file_of_a_checkpoint_is_published_at_the_end(
    hub: RunningHub, peer: Peer, tmp_path: Path, make_config: MakeConfig
) -> None:
    config = hub_config(hub, peer, make_config)
    uploader = open_uploader(config, settings=hub.settings())
    assert uploader is not None
    with uploader:
        step = keep(config.places.checkpoints, 3)
        first = Path(step).read_bytes()
        uploader.upload_checkpoint(local_path=step, step=3)
        assert published(hub) == {}
        os.remove(step)  # as when it is retired while it waits
        final = keep(config.places.checkpoints, 5, is_final=True)
        uploader.upload_terminal(status="completed", step=5, final_checkpoint=final)
        assert not os.path.exists(os.path.join(config.places.checkpoints, ".uploads", "0"))
    files = hub.files("acme/clf:v2", tmp_path / "pulled")
    directory = os.path.dirname(final)
    assert sorted(files) == ["checkpoint.json", "model.safetensors", "optim/state.safetensors"]
    for name, data in files.items():
        assert Path(os.path.join(directory, name)).read_bytes() == data
    earlier = hub.files("acme/clf:v2#step-00000003", tmp_path / "earlier")
    assert earlier["model.safetensors"] == first
    told = [one.told for one in peer.at("/checkpoint")]
    assert [one["file_ref"] for one in told] == [
        "checkpoints/step-00000003-model.safetensors",
        "checkpoints/final-model.safetensors",
    ]
    assert [one["uploaded_size_bytes"] for one in told] == [150_000, 150_000]
    (terminal,) = peer.at("/terminal")
    assert terminal.told["final_checkpoint_ref"] == told[1]["file_ref"]
    assert terminal.told["final_checkpoint_sha256"] == told[1]["sha256"]


def test_a_failed_run_publishes_nothing(
    hub: RunningHub, peer: Peer, make_config: MakeConfig
) -> None:
    config = hub_config(hub, peer, make_config)
    uploader = open_uploader(config, settings=hub.settings())
    assert uploader is not None
    with uploader:
        uploader.upload_checkpoint(local_path=keep(config.places.checkpoints, 3), step=3)
        uploader.upload_terminal(status="canceled", step=3, final_checkpoint=None)
    assert len(peer.at("/checkpoint")) == 1
    assert published(hub) == {}


def test_a_run_that_outlives_its_revision_is_published_all_the_same(
    hub: RunningHub, peer: Peer, tmp_path: Path, make_config: MakeConfig
) -> None:
    config = hub_config(hub, peer, make_config)
    uploader = open_uploader(config, settings=hub.settings())
    assert uploader is not None
    with uploader:
        uploader.upload_checkpoint(local_path=keep(config.places.checkpoints, 3), step=3)
        assert uploader.drain(60)
        hub.now_s += 7200
        final = keep(config.places.checkpoints, 5, is_final=True)
        uploader.upload_terminal(status="completed", step=5, final_checkpoint=final)
    assert len(hub.files("acme/clf:v2", tmp_path / "final")) == 3
    assert len(hub.files("acme/clf:latest#step-00000003", tmp_path / "step")) == 3


def test_checkpoints_of_other_kinds_and_samples_are_media(
    hub: RunningHub, peer: Peer, tmp_path: Path, make_config: MakeConfig
) -> None:
    token = hub.local.issue_token("admin")
    config = hub_config(
        hub, peer, make_config, capability_token=token, execution_hints={"kind": "export"}
    )
    sample = tmp_path / "grid.txt"
    sample.write_bytes(b"sample")
    uploader = open_uploader(config, settings=hub.settings())
    assert uploader is not None
    with uploader:
        uploader.upload_sample(local_path=str(sample), step=2)
        uploader.upload_checkpoint(local_path=keep(config.places.checkpoints, 3), step=3)
        uploader.upload_terminal(status="completed", step=3, final_checkpoint=None)
    (told,) = peer.at("/sample")
    assert told.told["file_ref"] == "v1/acme/jobs/run-7/samples/step-00000002-grid.txt"
    assert told.told["uploaded_size_bytes"] == 6
    for name in ("model.safetensors", "optim/state.safetensors", "checkpoint.json"):
        ref = f"v1/acme/jobs/run-7/checkpoints/step-00000003-{name}"
        assert hub.local.media.find(ref, "acme") is not None


def test_a_training_without_a_destination_is_refused(
    hub: RunningHub, peer: Peer, make_config: MakeConfig
) -> None:
    config = hub_config(hub, peer, make_config, execution_hints={}, destination={})
    uploader = open_uploader(config, settings=hub.settings())
    assert uploader is not None
    with uploader, pytest.raises(ArtifactUploadError, match="requires repo-cas job scope"):
        uploader.upload_checkpoint(local_path="/nowhere.json", step=1)


def test_a_token_without_the_right_is_an_auth_error(
    hub: RunningHub, peer: Peer, make_config: MakeConfig
) -> None:
    config = hub_config(hub, peer, make_config, capability_token=hub.local.issue_token("read"))
    uploader = open_uploader(config, settings=hub.settings())
    assert uploader is not None
    with uploader:
        uploader.upload_checkpoint(local_path=keep(config.places.checkpoints, 3), step=3)
        assert uploader.drain(60)
        with pytest.raises(AuthError):
            uploader.upload_terminal(status="completed", step=3, final_checkpoint=None)
        uploader.upload_terminal(status="failed", step=3, final_checkpoint=None, error="auth:x")
    assert [one.told["status"] for one in peer.at("/terminal")] == ["failed"]


def test_a_wrong_tag_is_found_before_the_run(
    hub: RunningHub, peer: Peer, make_config: MakeConfig
) -> None:
    for wrong in ({"tags": ["no tag"]}, {"ref": "no-ref"}):
        config = hub_config(
            hub, peer, make_config, execution_hints={"job_id": "j"}, destination=wrong
        )
        with pytest.raises(StartupContractError) as raised:
            open_uploader(config, settings=hub.settings())
        assert raised.value.code == "startup.invalid_destination"
