"""`gen-worker env`: every setting, its value, its source; and docs/environment.md beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Cli

DOCUMENT = Path(__file__).parents[3] / "docs" / "environment.md"


def listed(cli: Cli, *words: str, **environment: str) -> dict[str, dict[str, Any]]:
    done = cli("env", "--json", *words, **environment)
    assert (done.stderr, done.code) == ("", 0)
    (rows,) = done.values
    assert isinstance(rows, list)
    return {row["name"]: row for row in rows}


@pytest.mark.claims("env.list")
def test_a_setting_is_listed_with_value_and_source(cli: Cli) -> None:
    (cli.folder / ".env").write_text("WORKER_MAX_INPUT_BYTES=7\n")
    rows = listed(cli, GEN_WORKER_LOCAL_DEVICE="cuda:1")
    device = rows["GEN_WORKER_LOCAL_DEVICE"]
    assert (device["value"], device["source"]) == ("cuda:1", "environment")
    limit = rows["WORKER_MAX_INPUT_BYTES"]
    assert (limit["value"], limit["source"]) == (7, ".env")
    output = rows["GEN_WORKER_LOCAL_OUTPUT_DIR"]
    assert (output["value"], output["source"]) == ("./.gen-worker-run/outputs", "default")
    assert all(row["meaning"] for row in rows.values())


VARIABLES = {
    "ENDPOINT_TOML_PATH": ("/srv/endpoint.toml", "/srv/endpoint.toml"),
    "GEN_WORKER_LOCAL_DEVICE": ("cuda:1", "cuda:1"),
    "GEN_WORKER_LOCAL_OUTPUT_DIR": ("/srv/out", "/srv/out"),
    "GEN_WORKER_LOCK": ("/srv/endpoint.lock", "/srv/endpoint.lock"),
    "GEN_WORKER_SERVE_TOKEN": ("letmein", "***"),
    "HF_TOKEN": ("hf_x", "***"),
    "NO_COLOR": ("1", "1"),
    "TENSORHUB_CACHE_DIR": ("/srv/cache", "/srv/cache"),
    "TENSORHUB_CAS_DIR": ("/srv/cas", "/srv/cas"),
    "WORKER_MAX_INPUT_BYTES": ("10", 10),
    "WORKER_MAX_OUTPUT_BYTES": ("20", 20),
    "WORKER_MAX_OUTPUT_DELTA_BYTES": ("30", 30),
    "WORKER_MAX_OUTPUT_DELTA_EVENTS": ("40", 40),
    "WORKER_TORCH_DEVICE": ("cuda:2", "cuda:2"),
}


@pytest.mark.claims(
    "ENDPOINT_TOML_PATH",
    "GEN_WORKER_LOCAL_DEVICE",
    "GEN_WORKER_LOCAL_OUTPUT_DIR",
    "GEN_WORKER_LOCK",
    "GEN_WORKER_SERVE_TOKEN",
    "HF_TOKEN",
    "NO_COLOR",
    "TENSORHUB_CACHE_DIR",
    "TENSORHUB_CAS_DIR",
    "WORKER_MAX_INPUT_BYTES",
    "WORKER_MAX_OUTPUT_BYTES",
    "WORKER_MAX_OUTPUT_DELTA_BYTES",
    "WORKER_MAX_OUTPUT_DELTA_EVENTS",
    "WORKER_TORCH_DEVICE",
)
def test_every_variable_is_read(cli: Cli) -> None:
    rows = listed(cli, **{name: given for name, (given, _) in VARIABLES.items()})
    for name, (_, value) in VARIABLES.items():
        assert (rows[name]["value"], rows[name]["source"]) == (value, "environment"), name


@pytest.mark.claims("env.secrets")
def test_secrets_are_masked(cli: Cli) -> None:
    secret = "hf_verysecretvalue"
    done = cli("env", HF_TOKEN=secret)
    assert secret not in done.stdout + done.stderr
    assert listed(cli, HF_TOKEN=secret)["HF_TOKEN"]["value"] == "***"


@pytest.mark.claims("env.wrong")
def test_a_value_that_is_not_understood_is_told(cli: Cli) -> None:
    row = listed(cli, WORKER_MAX_INPUT_BYTES="lots")["WORKER_MAX_INPUT_BYTES"]
    assert "'lots'" in row["problem"]
    assert row["value"] == 0
    assert "wrong: WORKER_MAX_INPUT_BYTES" in cli("env", WORKER_MAX_INPUT_BYTES="lots").stdout


@pytest.mark.claims("env.words")
def test_words_narrow_the_list(cli: Cli) -> None:
    assert set(listed(cli, "hugging", "token")) == {"HF_TOKEN"}
    text = cli("env", "HF_TOKEN").stdout
    assert text.startswith("models:\n  HF_TOKEN  -  (default)\n")


@pytest.mark.claims("env.documented")
def test_the_document_lists_exactly_these(cli: Cli) -> None:
    documented = re.findall(r"^\| `([A-Z0-9_]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(listed(cli))
