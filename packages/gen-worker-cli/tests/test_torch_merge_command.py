"""`gen-worker merge`: the plan first, the numbers of the library, refusals by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Cli, Hub

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": "", "PYTHONWARNINGS": "default"}


def write_model(folder: Path, seed: int, **more: Any) -> dict[str, Any]:
    torch.manual_seed(seed)
    tensors = {"layer.weight": torch.randn(8, 4), "norm.weight": torch.randn(4), **more}
    folder.mkdir()
    safetensors_torch.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
    return tensors


def events(stdout: str) -> dict[str, Any]:
    return {event["kind"]: event for event in map(json.loads, stdout.splitlines())}


def load(folder: Path) -> dict[str, Any]:
    return dict(safetensors_torch.load_file(folder / "model.safetensors"))


@pytest.mark.claims("merge.methods", "merge.out")
def test_models_are_merged_by_weight(cli: Cli) -> None:
    a, b = (write_model(cli.folder / name, seed) for seed, name in enumerate("ab"))

    words = ("merge", "a", "b", "--weight", "3,1", "--out", "out", "--verify")
    done = cli(*words, **ENVIRONMENT)

    assert done.code == 0, done.stderr
    told = events(done.stdout)
    [part] = told["convert.plan"]["flavors"][0]["components"]
    assert (part["merged"], part["dtype"], part["memory_bytes"]) == (2, "fp32", 0)
    assert told["convert.verified"]["exact_tensors"] == 2
    for name, tensor in load(cli.folder / "out").items():
        torch.testing.assert_close(tensor, (3 * a[name] + b[name]) / 4)
    assert json.loads((cli.folder / "out" / "config.json").read_text()) == {"seed": 0}


@pytest.mark.claims("merge.publish")
def test_a_merge_is_published_with_all_that_it_was_made_from(
    cli: Cli, start_hub: Callable[..., Hub]
) -> None:
    hub = start_hub()
    for seed, name in enumerate("ab"):
        write_model(cli.folder / name, seed)
        pushed = cli("hub", "push", name, f"acme/{name}:prod", TENSORHUB_URL=hub.url)
        assert pushed.code == 0, pushed.stderr

    words = ("merge", "acme/a:prod", "acme/b:prod", "--to", "bf16", "--out", "acme/both:v1")
    done = cli(*words, TENSORHUB_URL=hub.url, **ENVIRONMENT)

    assert done.code == 0, done.stderr
    published = events(done.stdout)["convert.published"]
    assert (published["flavors"], published["tags"]) == (["bf16"], ["v1"])
    pulled = cli("hub", "pull", "acme/both:v1", "pulled", TENSORHUB_URL=hub.url)
    assert pulled.code == 0, pulled.stderr
    assert set(load(cli.folder / "pulled")) == {"layer.weight", "norm.weight"}
    from gen_worker.models.hub import HubClient

    with HubClient(hub.url) as client:
        path = "/api/v1/repos/acme/both/resolve"
        found = client.connection.call("POST", path, phase="resolve", body={"tag": "v1"})
    edges = [
        (edge["parent_repo"], edge["relationship_kind"])
        for edge in found.record("resolve")["lineage"]
    ]
    assert edges == [("acme/a", "manual-fork"), ("acme/b", "manual-fork")]


@pytest.mark.claims("merge.base")
def test_what_tunings_have_learnt_is_summed(cli: Cli) -> None:
    base, a, b = (write_model(cli.folder / name, seed) for seed, name in enumerate("zab"))
    words = ("merge", "a", "b", "--method", "dare", "--density", "0.5", "--seed", "5")

    assert "give it with --base" in cli(*words, "--out", "out", **ENVIRONMENT).stderr
    done = cli(*words, "--base", "z", "--to", "fp32", "--out", "out", **ENVIRONMENT)

    assert done.code == 0, done.stderr
    made = load(cli.folder / "out")["layer.weight"] - base["layer.weight"]
    changes = [2 * (one["layer.weight"] - base["layer.weight"]) for one in (a, b)]
    possible = [torch.zeros(8, 4), *changes, sum(changes)]
    apart = torch.stack([(made - one).abs() for one in possible]).min(0).values
    assert apart.max() < 1e-5  # each element has dropped one, the other, both or none
    assert json.loads((cli.folder / "out" / "config.json").read_text()) == {"seed": 0}


@pytest.mark.claims("merge.refused")
def test_models_that_do_not_fit_are_refused_by_name(cli: Cli) -> None:
    write_model(cli.folder / "a", 0)
    write_model(cli.folder / "b", 1, **{"norm.weight": torch.ones(5)})
    write_model(cli.folder / "c", 2, more=torch.ones(2))

    for models, said in (
        (("a", "b"), "'norm.weight' is"),
        (("a", "c"), "'more' is not in the first"),
        (("c", "a"), "'more' is not in all models"),
    ):
        done = cli("merge", *models, "--method", "slerp", "--out", "out", **ENVIRONMENT)
        assert (done.code, said in done.stderr) == (2, True), done.stderr
    assert not (cli.folder / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a",), "at least two models"),
        (("a", "b", "c", "--method", "slerp"), "slerp takes two models"),
        (("a", "b", "--weight", "1"), "give 2 numbers, separated by commas"),
        (("a", "b", "--weight", "1,x"), "give numbers"),
        (("a", "b", "--base", "c"), "--base: linear needs none"),
    ],
)
def test_options_that_do_not_belong_together(cli: Cli, words: tuple[str, ...], said: str) -> None:
    done = cli("merge", *words, "--out", "out", **ENVIRONMENT)

    assert done.code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
