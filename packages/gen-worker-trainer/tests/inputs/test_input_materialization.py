"""Inputs of a job become paths of this machine, each verified and fetched once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from gen_worker.cancel import CancelToken
from gen_worker.errors import AuthError, CanceledError
from gen_worker.models.hub import publish_folder
from gen_worker.models.settings import ModelSettings
from gen_worker.trainer.checkpoints import CheckpointStore
from gen_worker.trainer.errors import InputMaterializationError
from gen_worker.trainer.inputs import materialize
from gen_worker.trainer.resume import resume_point

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Peer, RunningHub
    from gen_worker.trainer.config import RunConfig

    MakeConfig = Callable[..., RunConfig]

NO_HUB = ModelSettings()


def fetch(config: RunConfig, settings: ModelSettings, store: str | None = None) -> None:
    """Have all inputs here, the checkpoint too."""
    with materialize(config, settings=settings, store=store) as found:
        _ = found.resume_path


def kept_checkpoint(root: Path, step: int = 5) -> Path:
    """Keep a checkpoint as a run does; return the path of its JSON."""
    with CheckpointStore(str(root)) as store, store.building(step) as draft:
        for name in ("model.safetensors", "more/optimizer.safetensors"):
            path = os.path.join(draft.directory, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(os.urandom(100_000))
        draft.commit("run-1", {"a": 1})
    return root / f"step-{step:08d}.json"


def test_paths_of_this_machine_are_used_in_place(tmp_path: Path, make_config: MakeConfig) -> None:
    model = tmp_path / "model" / "weights.safetensors"
    model.parent.mkdir()
    model.write_bytes(b"w")
    data = tmp_path / "my data"
    (data / "more").mkdir(parents=True)
    for name in ("b.parquet", "a.parquet", "more/c.PARQUET", "notes.txt"):
        (data / name).write_bytes(b"x")
    config = make_config(
        inputs={
            "base_model_ref": str(model),
            "dataset_parquet_refs": [str(data), (data / "b.parquet").as_uri()],
            "resume_checkpoint_ref": str(data / "notes.txt"),
        }
    )
    found = materialize(config, settings=NO_HUB)
    assert found.model_handles == {
        "base_model_dir": str(model.parent),
        "base_model_ref": str(model),
    }
    names = ("a.parquet", "b.parquet", "more/c.PARQUET", "b.parquet")
    assert found.parquet_paths == tuple(str(data / name) for name in names)
    assert found.resume_path == str(data / "notes.txt")
    assert not os.path.exists(config.places.inputs)


def test_what_needs_no_fetching_is_passed_on(make_config: MakeConfig) -> None:
    config = make_config(dataset={"parquet_paths": ["/d/a.parquet"]}, resume_checkpoint_path="/c")
    with materialize(config, settings=NO_HUB) as found:
        assert (found.model_handles, found.parquet_paths) == ({}, ("/d/a.parquet",))
        assert found.resume_path == "/c"


def test_a_url_is_fetched_once_and_keeps_its_name(peer: Peer, make_config: MakeConfig) -> None:
    peer.files = {"/data/train-0001.parquet": os.urandom(300_000), "/data/x": b"y", "/": b"model"}
    url = f"{peer.url}/data/train-0001.parquet?sig=s3cret"
    config = make_config(
        capability_token="token",
        inputs={
            "base_model_ref": f"{peer.url}/",
            "dataset_parquet_refs": [url, f"{peer.url}/data/x", url],
        },
    )
    found = materialize(config, settings=NO_HUB)
    first, second, third = found.parquet_paths
    key = hashlib.sha256(url.encode()).hexdigest()
    assert first == third == f"{config.places.inputs}/datasets/{key}/train-0001.parquet"
    assert Path(first).read_bytes() == peer.files["/data/train-0001.parquet"]
    assert os.path.basename(second) == "x.parquet"
    assert os.listdir(found.model_handles["base_model_dir"]) == ["weights.bin"]
    assert not any("authorization" in one.headers for one in peer.asked)
    before = len(peer.asked)
    assert materialize(config, settings=NO_HUB).parquet_paths == found.parquet_paths
    assert len(peer.asked) == before


def test_a_download_that_breaks_is_gone_on_with(peer: Peer, make_config: MakeConfig) -> None:
    data = os.urandom(3_000_000)
    peer.files["/a.parquet"] = data
    peer.plans["/a.parquet"].extend([200, "cut", 503, "close"])
    digest = hashlib.sha256(data).hexdigest()
    config = make_config(inputs={"dataset_parquet_refs": [f"{peer.url}/a.parquet#sha256={digest}"]})
    (path,) = materialize(config, settings=NO_HUB).parquet_paths
    assert Path(path).read_bytes() == data
    assert os.listdir(os.path.dirname(path)) == ["a.parquet"]
    starts = [one.headers["range"] for one in peer.at("/a.parquet", "GET")]
    assert any(not start.startswith("bytes=0-") for start in starts)


@pytest.mark.parametrize("algorithm", ["sha256", "blake3"])
def test_another_file_than_the_one_named_is_refused(
    algorithm: str, peer: Peer, make_config: MakeConfig
) -> None:
    peer.files["/a.parquet"] = b"other"
    config = make_config(
        inputs={"dataset_parquet_refs": [f"{peer.url}/a.parquet#{algorithm}={'0' * 64}"]}
    )
    with pytest.raises(InputMaterializationError, match="digest"):
        materialize(config, settings=NO_HUB)
    good = blake3(b"other").hexdigest()
    config = make_config(inputs={"dataset_parquet_refs": [f"{peer.url}/a.parquet#blake3={good}"]})
    assert materialize(config, settings=NO_HUB).parquet_paths


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"base_model_ref": "/nowhere/model"}, "there is no '/nowhere/model'"),
        ({"base_model_ref": "file://host/model"}, "file:///path"),
        ({"base_model_ref": "no ref"}, "no '/'"),
        ({"base_model_ref": "acme/model"}, "TENSORHUB_URL"),
        ({"dataset_parquet_refs": ["hf:acme/data"]}, "fetched from the hub alone"),
        ({"resume_checkpoint_ref": "acme/model"}, "no hub is configured"),
        ({"dataset_parquet_refs": ["http://127.0.0.1:1/a#md5=1"]}, "#sha256="),
        ({"base_model_ref": "ftp://h/x"}, "URL"),
    ],
)
def test_what_cannot_be_had_says_which_and_why(
    inputs: dict[str, Any], reason: str, tmp_path: Path, make_config: MakeConfig
) -> None:
    with pytest.raises(InputMaterializationError) as raised:
        fetch(make_config(inputs=inputs), NO_HUB, str(tmp_path / "store"))
    text = next(iter(inputs.values()))
    shown = text if isinstance(text, str) else text[0]
    assert shown.partition("#")[0] in str(raised.value)
    assert reason in str(raised.value)


def test_a_missing_file_is_no_reason_to_try_again(peer: Peer, make_config: MakeConfig) -> None:
    config = make_config(inputs={"base_model_ref": f"{peer.url}/gone.safetensors?sig=s3cret"})
    with pytest.raises(InputMaterializationError) as raised:
        materialize(config, settings=NO_HUB)
    assert (raised.value.status_code, raised.value.retryable) == (404, False)
    assert "s3cret" not in str(raised.value)


def test_an_orchestrated_job_reaches_no_private_address(
    peer: Peer, make_config: MakeConfig
) -> None:
    peer.files["/a.parquet"] = b"x"
    config = make_config(
        orchestrated=True,
        capability_token="t",
        inputs={"dataset_parquet_refs": [f"{peer.url}/a.parquet"]},
    )
    with pytest.raises(InputMaterializationError):
        materialize(config, settings=NO_HUB)
    assert peer.asked == []


def test_a_canceled_job_fetches_nothing(peer: Peer, make_config: MakeConfig) -> None:
    cancel = CancelToken()
    cancel.cancel()
    config = make_config(inputs={"dataset_parquet_refs": [f"{peer.url}/a.parquet"]})
    with pytest.raises(CanceledError):
        materialize(config, settings=NO_HUB, cancel=cancel)


def test_the_token_goes_to_the_hub_alone(
    peer: Peer, tmp_path: Path, make_config: MakeConfig
) -> None:
    """Here the peer is what is configured as the hub."""
    peer.files["/a.parquet"] = b"x"
    settings = ModelSettings(hub_url=peer.url, hub_token="hub-token")
    config = make_config(inputs={"dataset_parquet_refs": [f"{peer.url}/a.parquet"]})
    materialize(config, settings=settings)
    assert {one.headers["authorization"] for one in peer.asked} == {"Bearer hub-token"}
    peer.plans["/b.parquet"].append(403)
    config = make_config(
        capability_token="job-token", inputs={"dataset_parquet_refs": [f"{peer.url}/b.parquet"]}
    )
    with pytest.raises(AuthError) as raised:
        materialize(config, settings=settings)
    assert "job-token" not in str(raised.value)
    assert peer.asked[-1].headers["authorization"] == "Bearer job-token"


def test_models_and_datasets_of_the_hub_come_from_the_store(
    hub: RunningHub, tmp_path: Path, make_config: MakeConfig
) -> None:
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    for name in ("train/b.parquet", "train/a.parquet", "README.md"):
        (folder / name).write_bytes(name.encode())
    with hub.client() as client:
        published = publish_folder(client, folder, "acme/data", tags=("v1",), flavor="small")
    pinned = f"acme/data@{published.checkpoint_ids[0]}"
    config = make_config(
        inputs={
            "base_model_ref": "acme/data:v1#small",
            "dataset_parquet_refs": ["acme/data:v1", pinned],
        }
    )
    settings = hub.settings(hub.local.issue_token("read"))
    with materialize(config, settings=settings, store=str(tmp_path / "store")) as found:
        names = [os.path.relpath(path, found.model_handles["base_model_dir"])
                 for path in found.parquet_paths]  # fmt: skip
        assert names == ["train/a.parquet", "train/b.parquet"] * 2
        assert Path(found.parquet_paths[0]).read_bytes() == b"train/a.parquet"
    again = materialize(config, settings=settings, store=str(tmp_path / "store"))
    assert again.parquet_paths == found.parquet_paths
    again.close()


def test_a_published_dataset_is_found_by_its_name(
    hub: RunningHub, tmp_path: Path, make_config: MakeConfig
) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"rows")
    with hub.client() as client:
        sent = client.upload_media(str(path), "a", owner="acme")
        entry = {"path": "data/a.parquet", "digest": f"blake3:{sent.blake3}", "size_bytes": 4}
        client.put_dataset("acme", "rows", {"__cozy_snapshot_manifest__": [entry]})
    config = make_config(inputs={"dataset_parquet_refs": ["acme/rows"]})
    settings = hub.settings(hub.local.issue_token("read"))
    with materialize(config, settings=settings, store=str(tmp_path / "store")) as found:
        (only,) = found.parquet_paths
        assert Path(only).read_bytes() == b"rows"


def test_a_repository_without_the_right_files_says_so(
    hub: RunningHub, tmp_path: Path, make_config: MakeConfig
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_bytes(b"x")
    with hub.client() as client:
        publish_folder(client, tmp_path / "empty", "acme/empty")
    settings = hub.settings(hub.local.issue_token("read"))
    for inputs, reason in (
        ({"dataset_parquet_refs": ["acme/empty"]}, "none of its 1 files is"),
        ({"resume_checkpoint_ref": "acme/empty"}, "has no checkpoint.json"),
        ({"dataset_parquet_refs": ["acme/none"]}, "not on the hub"),
    ):
        with pytest.raises(InputMaterializationError, match=reason):
            fetch(make_config(inputs=inputs), settings, str(tmp_path / "store"))
    with pytest.raises(AuthError):
        fetch(
            make_config(inputs={"resume_checkpoint_ref": "acme/empty"}),
            hub.settings("wrong"),
        )


def test_a_whole_checkpoint_comes_from_the_hub(
    hub: RunningHub, tmp_path: Path, make_config: MakeConfig
) -> None:
    json_path = kept_checkpoint(tmp_path / "kept")
    with hub.client() as client:
        publish_folder(client, json_path.with_suffix(""), "acme/run")
    config = make_config(inputs={"resume_checkpoint_ref": "acme/run"})
    settings = hub.settings(hub.local.issue_token("read"))
    with materialize(config, settings=settings) as found:
        path = found.resume_path
    assert path is not None
    with CheckpointStore(config.places.checkpoints) as store:
        point = resume_point(config.job, store, lambda: path)
    assert point is not None
    assert (point.step, point.state) == (5, {"a": 1})
    assert sorted(os.listdir(point.directory)) == ["checkpoint.json", "model.safetensors", "more"]
    with materialize(config, settings=settings) as again:
        assert again.resume_path == path


@pytest.mark.parametrize("place", ["/c/step-00000005.json", "/c/step-00000005/checkpoint.json"])
def test_a_whole_checkpoint_comes_from_a_url(
    place: str, peer: Peer, tmp_path: Path, make_config: MakeConfig
) -> None:
    json_path = kept_checkpoint(tmp_path / "kept")
    for path in json_path.parent.rglob("*"):
        if path.is_file():
            peer.files[f"/c/{path.relative_to(json_path.parent).as_posix()}"] = path.read_bytes()
    config = make_config(inputs={"resume_checkpoint_ref": f"{peer.url}{place}?sig=1"})
    with (
        materialize(config, settings=NO_HUB) as found,
        CheckpointStore(config.places.checkpoints) as store,
    ):
        point = resume_point(config.job, store, found.find_checkpoint)
    assert point is not None
    assert point.step == 5
    assert all(one.path.endswith("?sig=1") for one in peer.asked)


def test_a_checkpoint_that_lists_files_outside_is_refused(
    peer: Peer, make_config: MakeConfig
) -> None:
    stored = {"size_bytes": 1, "blake3": "0" * 64}
    body = {"step": 1, "state": {}, "files": {"../../evil": stored}}
    peer.files["/c.json"] = json.dumps(body).encode()
    config = make_config(inputs={"resume_checkpoint_ref": f"{peer.url}/c.json"})
    with pytest.raises(InputMaterializationError, match="evil"):
        fetch(config, NO_HUB)
