"""The container's command, as a real process: how it starts, refuses to start, and ends."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gen_worker import entrypoint
from gen_worker.errors import SettingsError
from gen_worker.modes import mode_named
from gen_worker.runtime.entry import inference
from gen_worker.runtime.entry.directories import check_writable, inductor_cache_dir
from gen_worker.runtime.entry.privileges import User, find_user, owner_or
from gen_worker.runtime.entry.unread import UNREAD
from gen_worker.settings import records, settings_in
from gen_worker.testing.pool import Pool

TOML = 'schema_version = 1\nname = "shop"\nmain = "shop"\n'
CODE = """
import msgspec
from gen_worker import RequestContext, inference_function

class Order(msgspec.Struct):
    text: str = ""

@inference_function
def sell(ctx: RequestContext, payload: Order) -> Order:
    return Order(payload.text.upper())
"""
LOCK = 'lock_version = 1\n[[functions]]\nname = "sell"\nmodule = "shop"\n'
READY = {"WORKER_JWT": "dev-worker-jwt", "PUBLIC_ORCHESTRATOR_GRPC_ADDR": "127.0.0.1:1"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / ".tensorhub").mkdir(parents=True)
    (folder / "endpoint.toml").write_text(TOML)
    (folder / "shop.py").write_text(CODE)
    (folder / ".tensorhub" / "endpoint.lock").write_text(LOCK)
    return folder


def start(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gen_worker.entrypoint", *arguments],
        cwd=project,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(project.parent),
            "GEN_WORKER_LOCK": ".tensorhub/endpoint.lock",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def logged(text: str, kind: str) -> list[dict[str, Any]]:
    lines = [line.partition(f"worker.{kind} ")[2] for line in text.splitlines()]
    return [json.loads(line) for line in lines if line]


@pytest.mark.claims("WORKER_MODE")
def test_a_container_serves_its_functions_and_ends_when_it_is_told_to(project: Path) -> None:
    with Pool() as pool:
        process = pool.start(project, environment={"WORKER_MODE": "inference"})
        assert pool.submit("sell", {"text": "tea"}).output() == {"text": "TEA"}
        assert process.terminate() == 0
        phases = [line["phase"] for line in logged(process.log, "startup.phase")]
    starting = ["boot", "manifest_loaded", "cache_preflight_started", "cache_preflight_ok"]
    assert phases[:4] == starting
    assert phases[-1] == "ready"


def test_everything_that_is_missing_is_named_at_once(project: Path) -> None:
    ended = start(project, GEN_WORKER_LOCK="nowhere.lock")
    (fatal,) = logged(ended.stderr, "fatal")
    assert ended.returncode == fatal["exit_code"] == 1
    assert fatal["phase_context"] == "settings_load"
    for word in ("PUBLIC_ORCHESTRATOR_GRPC_ADDR", "WORKER_JWT", "'nowhere.lock'"):
        assert word in fatal["exception_message"]
    errors = [line for line in logged(ended.stderr, "startup.phase") if line["status"] == "error"]
    assert [line["reason"] for line in errors] == ["missing_or_invalid_manifest"]


def test_everything_that_is_not_understood_is_named_with_it(project: Path) -> None:
    wrong = {
        "RECONNECT_DELAY": "soon",
        "PUBLIC_ORCHESTRATOR_GRPC_ADDR": "nowhere",
        "SCHEDULER_JWKS_URL": "keys",
        "WORKER_METRICS_ADDR": "everywhere",
        "WORKER_MAX_UPLOAD_BYTES": "many",
        "WORKER_MAX_CONCURRENT_DOWNLOADS": "some",
    }
    (fatal,) = logged(start(project, **wrong).stderr, "fatal")
    assert fatal["phase_context"] == "settings_load"
    for word in (*wrong.keys() - {"PUBLIC_ORCHESTRATOR_GRPC_ADDR"}, "'nowhere'", "WORKER_JWT"):
        assert word in fatal["exception_message"]


def test_certificates_that_are_not_there_are_missed_where_they_are_needed(project: Path) -> None:
    wrong = {"SSL_CERT_FILE": str(project / "nowhere.pem"), "WORKER_REGISTER_TIMEOUT_S": "0.2"}
    (fatal,) = logged(start(project, **READY, **wrong, USE_TLS="1").stderr, "fatal")
    assert fatal["phase_context"] == "settings_load"
    assert fatal["exception_message"] == f"SSL_CERT_FILE names no file: {wrong['SSL_CERT_FILE']!r}"
    assert logged(start(project, **READY, **wrong).stderr, "fatal") == []


def test_a_token_that_its_keys_refuse_is_named(project: Path) -> None:
    ended = start(project, **READY, SCHEDULER_JWKS_URL="http://127.0.0.1:1/keys")
    (fatal,) = logged(ended.stderr, "fatal")
    assert (ended.returncode, fatal["phase_context"]) == (1, "settings_load")
    assert fatal["exception_message"] == (
        "WORKER_JWT, checked with the keys of SCHEDULER_JWKS_URL: "
        "the token is refused: it is no signed JWT"
    )
    assert "dev-worker-jwt" not in ended.stderr


def test_the_lock_of_the_project_here_is_used_where_there_is_no_image(project: Path) -> None:
    ended = start(project, GEN_WORKER_LOCK="", **READY, WORKER_REGISTER_TIMEOUT_S="0.2")
    phases = {line["phase"]: line for line in logged(ended.stderr, "startup.phase")}
    assert phases["manifest_loaded"]["path"] == str(project / ".tensorhub" / "endpoint.lock")
    assert phases["manifest_loaded"]["functions"] == 1
    assert "startup_timeout_unregistered" in phases


def test_without_a_lock_both_places_are_named(project: Path) -> None:
    lock = project / ".tensorhub" / "endpoint.lock"
    lock.unlink()
    (fatal,) = logged(start(project, GEN_WORKER_LOCK="", **READY).stderr, "fatal")
    assert fatal["exception_message"].startswith(
        f"there is no endpoint.lock at '/app/.tensorhub/endpoint.lock' or {str(lock)!r}: "
    )
    lock.write_text("lock_version = 1\n")
    (fatal,) = logged(start(project, GEN_WORKER_LOCK="", **READY).stderr, "fatal")
    assert fatal["exception_message"].startswith(f"{str(lock)!r} names no functions: ")


class Rude:
    """Takes connections, and ends each of them with an error of HTTP/2."""

    SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    GOAWAY = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(7) + b"\x02"

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(60)
        self.connections: list[socket.socket] = []
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def turn_away(self, count: int) -> None:
        for _ in range(count):
            connection, _ = self.listener.accept()
            self.connections.append(connection)
            connection.recv(1024)
            connection.sendall(self.SETTINGS + self.GOAWAY)
            connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in (self.listener, *self.connections):
            one.close()


@pytest.mark.claims("GRPC_VERBOSITY")
@pytest.mark.parametrize(("verbosity", "is_told"), [("", False), ("INFO", True)])
def test_grpc_says_nothing_of_its_own_unless_it_is_asked_to(
    project: Path, verbosity: str, is_told: bool
) -> None:
    rude, log = Rude(), project / "worker.log"
    environment = {
        **os.environ,
        **READY,
        "PUBLIC_ORCHESTRATOR_GRPC_ADDR": rude.address,
        "GRPC_VERBOSITY": verbosity,
        "HOME": str(project.parent),
    }
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-m", "gen_worker.entrypoint"],
            cwd=project,
            env=environment,
            stderr=file,
        )
        with worker, closing(rude):
            rude.turn_away(3)
            worker.kill()
    assert ("Got goaway" in log.read_text()) is is_told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_modules_are_imported_ends_it(project: Path, number: int) -> None:
    signs, ready = os.pipe()
    code = f"import os, time\nos.write({ready}, b'here')\ntime.sleep(600)\n"
    (project / "shop.py").write_text(code)
    environment = {**os.environ, **READY, "HOME": str(project.parent)}
    with subprocess.Popen(
        [sys.executable, "-m", "gen_worker.entrypoint"],
        cwd=project,
        env=environment,
        stderr=subprocess.PIPE,
        pass_fds=[ready],
        text=True,
    ) as worker:
        os.close(ready)
        assert os.read(signs, 4) == b"here"
        os.close(signs)
        worker.send_signal(number)
        _, stderr = worker.communicate(timeout=60)
    assert worker.returncode == 0
    assert logged(stderr, "startup.phase")[-1]["phase"] == "stopped"
    assert logged(stderr, "fatal") == []


def test_variables_that_older_workers_read_are_said_to_have_no_effect(project: Path) -> None:
    ended = start(project, MODEL_MANAGER_CLASS="shop:Manager", COZY_HF_COMPONENTS="")
    assert ended.returncode == 1
    warnings = [line for line in ended.stderr.splitlines() if "is not read" in line]
    assert len(warnings) == 1
    assert "MODEL_MANAGER_CLASS is not read: a model is loaded by the type" in warnings[0]
    known = {setting.env for _, record in records() for _, _, setting in settings_in(record)}
    assert not known & UNREAD.keys()


def test_a_module_that_cannot_be_imported_is_fatal(project: Path) -> None:
    (project / "shop.py").write_text("raise RuntimeError('closed')")
    ended = start(project, **READY)
    (fatal,) = logged(ended.stderr, "fatal")
    assert (ended.returncode, fatal["phase_context"]) == (1, "import")
    assert "closed" in fatal["exception_message"]


def test_a_cache_nobody_can_write_to_is_fatal(project: Path) -> None:
    (project / "file").write_text("")
    ended = start(project, TENSORHUB_CACHE_DIR="file", **READY)
    last = logged(ended.stderr, "startup.phase")[-1]
    assert ended.returncode == 1
    assert (last["phase"], last["label"]) == ("cache_preflight_failed", "TENSORHUB_CAS_DIR")


def test_nobody_there_ends_the_container(project: Path) -> None:
    ended = start(project, **READY, WORKER_REGISTER_TIMEOUT_S="0.2")
    last = logged(ended.stderr, "startup.phase")[-1]
    assert (ended.returncode, last["phase"]) == (1, "startup_timeout_unregistered")


@pytest.mark.parametrize("environment", [READY, {}], ids=["ran", "refused"])
def test_a_program_that_was_a_worker_collects_its_garbage_afterwards(
    project: Path, environment: dict[str, str]
) -> None:
    program = "\n".join(
        [
            "import gc",
            "before = gc.get_freeze_count()",  # some Pythons begin with a few
            "from gen_worker.runtime.entry import inference",
            "from gen_worker.settings import CoreSettings, load",
            "assert inference.run(load(CoreSettings)) == 1",
            "print(gc.isenabled(), gc.get_freeze_count() <= before)",
        ]
    )
    ended = start(
        project, sys.executable, "-c", program, WORKER_REGISTER_TIMEOUT_S="0.2", **environment
    )
    assert ended.stdout == "True True\n", ended.stderr


@pytest.mark.parametrize(
    ("mode", "words"),
    [("trainer", "install 'gen-worker-trainer'"), ("dancer", "must be inference or trainer")],
)
def test_a_mode_nobody_has(project: Path, mode: str, words: str) -> None:
    ended = start(project, WORKER_MODE=mode, **READY)
    (fatal,) = logged(ended.stderr, "fatal")
    assert ended.returncode == 1
    assert words in fatal["exception_message"]


@pytest.mark.claims("PYTORCH_CUDA_ALLOC_CONF", "TORCHINDUCTOR_CACHE_DIR")
def test_arguments_take_the_worker_s_place(project: Path) -> None:
    script = 'echo "$PYTORCH_CUDA_ALLOC_CONF $TORCHINDUCTOR_CACHE_DIR $0"; exit 3'
    ended = start(project, "sh", "-c", script, TORCHINDUCTOR_CACHE_DIR="/elsewhere")
    assert ended.stdout == "expandable_segments:True /elsewhere sh\n"
    assert ended.returncode == 3
    own = start(project, "sh", "-c", script, PYTORCH_CUDA_ALLOC_CONF="backend:native")
    assert own.stdout.startswith("backend:native /")


def test_a_command_that_does_not_exist(project: Path) -> None:
    ended = start(project, "no-such-command", "--flag")
    assert ended.returncode == 127
    assert ended.stderr == (
        "gen_worker.entrypoint: cannot run 'no-such-command': No such file or directory\n"
    )


@pytest.mark.claims("GEN_WORKER_USER")
def test_root_becomes_an_ordinary_user(project: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    nobody = pwd.getpwnam("nobody")
    script = 'id -u; id -g; id -G; echo "$HOME"'
    # Nothing is imported any more once this Python may be out of the user's reach.
    own = {"GEN_WORKER_USER": "nobody", "TORCHINDUCTOR_CACHE_DIR": "/nowhere"}
    ended = start(project, "sh", "-c", script, **own)
    assert ended.stdout.split() == [
        str(nobody.pw_uid),
        str(nobody.pw_gid),
        str(nobody.pw_gid),
        nobody.pw_dir,
    ]


def test_a_user_that_the_image_does_not_have(project: Path) -> None:
    with pytest.raises(SettingsError, match="'no-such-user' is no user of this image"):
        find_user("no-such-user")
    assert find_user("0").home == pwd.getpwuid(0).pw_dir


def test_a_command_does_not_run_as_root_in_place_of_a_user_that_is_not_there(
    project: Path,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    ended = start(project, "id", "-u", GEN_WORKER_USER="no-such-user")
    assert (ended.returncode, ended.stdout) == (126, "")
    assert "cannot run 'id': GEN_WORKER_USER 'no-such-user' is no user" in ended.stderr


def test_somebody_s_own_directory_is_filled_as_its_owner(tmp_path: Path) -> None:
    worker = User(10001, 10001, "/home/worker")
    here = tmp_path.stat()
    found = owner_or(str(tmp_path), worker)
    assert found == (worker if here.st_uid == 0 else (here.st_uid, here.st_gid, worker.home))
    assert owner_or(str(tmp_path / "missing"), worker) == worker
    if os.geteuid() == 0:
        os.chown(tmp_path, 4242, 4243)
        assert owner_or(str(tmp_path), worker) == (4242, 4243, worker.home)


def test_directories_for_what_is_kept(tmp_path: Path) -> None:
    check_writable(str(tmp_path / "new" / "cas"))
    assert list((tmp_path / "new" / "cas").iterdir()) == []
    assert inductor_cache_dir(str(tmp_path / "inductor")) == str(tmp_path / "inductor")
    (tmp_path / "file").write_text("")
    fallback = inductor_cache_dir(str(tmp_path / "file" / "inductor"))
    assert os.path.basename(fallback) == "gen-worker-inductor"


def test_the_mode_of_this_package_is_published_as_it_is_known() -> None:
    with open(Path(__file__).parents[1] / "pyproject.toml", "rb") as file:
        groups = tomllib.load(file)["project"]["entry-points"]
    assert groups["gen_worker.modes"] == entrypoint._MODES
    assert mode_named("inference", known=entrypoint._MODES) is inference.run
