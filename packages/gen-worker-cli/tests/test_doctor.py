"""`gen-worker doctor`: what would stop an endpoint from running here."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Cli

GOOD = """
import msgspec
from gen_worker import HFRepo, RequestContext, Resources, inference_function

class In(msgspec.Struct):
    text: str

@inference_function
def echo(ctx: RequestContext, payload: In) -> In:
    return payload
"""
DEMANDING = f"""{GOOD}
@inference_function(resources=Resources(min_vram_gb=100000, required_libraries=("no_such_lib",)))
def huge(ctx: RequestContext, payload: In) -> In:
    return payload

@inference_function(models={{"engine": HFRepo("acme/painter")}})
def hugging(ctx: RequestContext, engine, payload: In) -> In:
    return payload
"""


def findings(cli: Cli, **environment: str) -> tuple[dict[str, dict[str, Any]], int]:
    done = cli("doctor", "--json", project=cli.folder, **environment)
    (rows,) = done.values
    assert isinstance(rows, list)
    return {row["check"]: row for row in rows if row["level"] != "ok"}, done.code


@pytest.mark.claims("doctor.healthy")
def test_a_healthy_project(cli: Cli) -> None:
    folder = cli.write_project(GOOD)
    done = cli("doctor", project=folder)
    assert done.code == 0
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}
    assert "ok       project: functions: echo" in done.stdout


@pytest.mark.claims("doctor.project")
def test_mistakes_of_the_project(cli: Cli) -> None:
    folder = cli.write_project("import no_such_library\n")
    found, code = findings(cli)
    assert code == 1
    assert "no_such_library" in found["project"]["message"]
    assert "Traceback" in cli("doctor", "--verbose", project=folder).stdout
    (folder / "endpoint.toml").unlink()
    found, code = findings(cli)
    assert code == 1
    assert "no ./endpoint.toml" in found["project"]["message"]


@pytest.mark.claims("doctor.project")
def test_a_type_that_cannot_be_described(cli: Cli) -> None:
    cli.write_project(GOOD.replace("text: str", "text: object"))
    found, code = findings(cli)
    assert code == 1
    assert "In.text is object [schema]" in found["project"]["message"]


@pytest.mark.claims("doctor.project")
def test_an_import_that_ends_the_process_is_told_like_any_other_mistake(cli: Cli) -> None:
    cli.write_project("import os\nos._exit(7)\n")
    found, code = findings(cli)
    assert code == 1
    assert "ended with exit status 7 while it imported 'app'" in found["project"]["message"]
    assert found["project"]["remedy"]


@pytest.mark.claims("doctor.hardware", "doctor.tokens")
def test_what_the_functions_need_of_the_machine(cli: Cli) -> None:
    cli.write_project(DEMANDING)
    found, code = findings(cli)
    assert code == 1
    assert found["hardware"]["message"].startswith("huge: ")
    assert found["hardware"]["remedy"]
    assert found["libraries"]["message"] == (
        "huge: not importable: no_such_lib [missing_optional_library]"
    )
    assert found["tokens"]["level"] == "warning"
    assert "HF_TOKEN is not set" in found["tokens"]["message"]
    assert "tokens" not in findings(cli, HF_TOKEN="hf_x")[0]


@pytest.mark.claims("doctor.models")
def test_a_model_that_nothing_here_could_bring(cli: Cli) -> None:
    lines = ['@inference_function(models={"engine": Repo("acme/painter").flavor("bf16")})']
    lines += ["def paint(ctx: RequestContext, engine, payload: In) -> In:", "    return payload"]
    cli.write_project(GOOD.replace("HFRepo", "Repo") + "\n".join(lines))
    found, code = findings(cli)
    assert code == 1
    assert found["models"]["message"].startswith("acme/painter:prod#bf16 is not on this machine")
    assert "TENSORHUB_URL" in found["models"]["remedy"]
    assert findings(cli, TENSORHUB_URL="http://127.0.0.1:9") == ({}, 0)


@pytest.mark.claims("doctor.python")
@pytest.mark.parametrize(
    ("text", "part"),
    [('[project]\nrequires-python = ">=3.99"\n', "the project needs '>=3.99'"), ("[", "TOML")],
)
def test_the_python_that_the_project_needs(cli: Cli, text: str, part: str) -> None:
    cli.write_project(GOOD, **{"pyproject.toml": text})
    found, code = findings(cli)
    assert code == 1
    assert part in found["python"]["message"]


@pytest.mark.claims("doctor.settings")
def test_a_setting_that_is_not_understood(cli: Cli) -> None:
    cli.write_project(GOOD)
    found, code = findings(cli, WORKER_MAX_INPUT_BYTES="lots")
    assert code == 1
    assert "'lots'" in found["settings"]["message"]


@pytest.mark.claims("doctor.directories")
def test_directories_that_cannot_be_written(cli: Cli) -> None:
    cli.write_project(GOOD)
    (cli.folder / "file").write_text("")
    place = str(cli.folder / "file" / "below")
    found, code = findings(cli, TENSORHUB_CACHE_DIR=place, GEN_WORKER_LOCAL_OUTPUT_DIR=place)
    assert code == 1
    assert "TENSORHUB_CACHE_DIR" in found["cache"]["remedy"]
    assert "GEN_WORKER_LOCAL_OUTPUT_DIR" in found["outputs"]["remedy"]


@pytest.mark.claims("doctor.leftovers")
def test_sockets_of_earlier_servers(cli: Cli) -> None:
    folder = cli.write_project(GOOD)
    path = folder / ".gen-worker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert "socket" not in findings(cli)[0]
    found, code = findings(cli)
    assert (found["socket"]["level"], code) == ("warning", 0)
    assert "was left by a server that is gone" in found["socket"]["message"]
    path.unlink()
    path.write_text("")
    found, code = findings(cli)
    assert code == 1
    assert "is not a socket" in found["socket"]["message"]
