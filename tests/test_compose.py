"""docker/compose.yaml: linted, and its commands and health checks run here as processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCUMENT: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
WORKERS = sorted(name for name in SERVICES if name.startswith("worker-"))
EVERY = pytest.mark.parametrize("name", SERVICES)
SECRET = re.compile(r"(?i)token|secret|password|jwt|key")
TIMEOUT_S = 120.0


def instructions() -> list[tuple[str, str]]:
    """Return the image's Dockerfile as instructions and their arguments."""
    text = (DOCKER / "platform" / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def environment_of(name: str) -> dict[str, str]:
    return dict(SERVICES[name].get("environment", {}))


def test_the_services() -> None:
    assert sorted(SERVICES) == ["hub", "scheduler", "worker-1", "worker-2"]


@EVERY
def test_nobody_may_more_than_is_needed(name: str) -> None:
    service = SERVICES[name]
    user, _, group = service["user"].partition(":")
    assert 0 not in (int(user), int(group))
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & service.keys()


@EVERY
def test_what_dies_comes_back_and_what_hangs_is_seen(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["init"] is True
    for other in service.get("depends_on", {}).values():
        assert other == {"condition": "service_healthy"}


@EVERY
def test_secrets_are_files(name: str) -> None:
    service = SERVICES[name]
    assert [key for key in environment_of(name) if SECRET.search(key)] == []
    assert service["secrets"]
    for secret in service["secrets"]:
        assert SECRET.search(secret["target"])
        assert DOCUMENT["secrets"][secret["source"]]["file"].startswith("secrets/")


def test_the_image_has_a_version() -> None:
    for service in SERVICES.values():
        image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"])
        assert re.search(r":[0-9.]+$", image)
        assert (DOCKER / service["build"] / "Dockerfile").is_file()
    steps = instructions()
    images = [step.split()[0] for name, step in steps if name == "FROM"]
    assert all(":" in image and not image.endswith(":latest") for image in images)
    for name, step in steps:
        if name == "RUN":
            shell = re.sub(r"^(\s*--mount=\S+)+\s*", "", step)
            subprocess.run(["sh", "-n", "-c", shell], check=True)
        assert name != "ADD"
    assert steps[-2:] == [("USER", "10001:10001"), ("ENTRYPOINT", '["gen-worker"]')]
    assert {service["user"] for service in SERVICES.values()} == {"10001:10001"}


def test_only_this_machine_reaches_it() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published == ["127.0.0.1:8787:8787"]


def test_workers_see_no_requests_and_no_keys() -> None:
    for name in WORKERS:
        secrets = {one["source"]: one["target"] for one in SERVICES[name]["secrets"]}
        assert secrets == {"worker": "GEN_WORKER_TOKEN", "hub": "TENSORHUB_TOKEN"}
        mounts = {one["target"]: one for one in SERVICES[name]["volumes"]}
        assert sorted(mounts) == ["/data/cache", "/data/releases"]
        assert mounts["/data/releases"]["read_only"] is True
        for target, mount in mounts.items():
            assert f"/data/{mount['volume']['subpath']}" == target
    made = next(step for name, step in instructions() if "mkdir" in step)
    assert "/data/cache" in made
    assert "/data/releases" in made


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_secrets_are_made_as_the_comment_says(tmp_path: Path) -> None:
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    lines = re.findall(r"^#   (.*)", text, re.MULTILINE)
    making = [line for line in lines if "secrets" in line and "export" not in line]
    assert len(making) == 3
    subprocess.run(["sh", "-e", "-c", "\n".join(making)], cwd=tmp_path, check=True)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    for secret in DOCUMENT["secrets"].values():
        assert len((tmp_path / secret["file"]).read_text().strip()) == 64


# -- its commands, without containers --------------------------------------------------------------


class Machine:
    """Runs services as processes: names, ports and folders are this machine's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(mode=0o700)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.secrets = {name: f"{name}-{'x' * 40}" for name in DOCUMENT["secrets"]}
        self.ports = {port: free_port() for port in ("8090", "8787", "8788")}
        self.metrics = {name: free_port() for name in WORKERS}

    def here(self, text: str, name: str) -> str:
        """Return what a word means on this machine."""
        text = re.sub(r"\$\{ENDPOINT:\?[^}]*\}", "ada/marco-polo", text)
        text = re.sub(r"^/data(?=/|$)", str(self.data), text)
        for port, free in self.ports.items():
            text = re.sub(rf"(?<![0-9]){port}(?![0-9])", str(free), text)
        text = text.replace("9100", str(self.metrics.get(name, 0)))
        text = text.replace("0.0.0.0", "127.0.0.1")
        return re.sub(
            r"(?<=//)(hub|scheduler)(?=:)|^(hub|scheduler)(?=:)|(?<==)scheduler(?=:)",
            "127.0.0.1",
            text,
        )

    def environment(self, name: str) -> dict[str, str]:
        own = {key: self.here(value, name) for key, value in environment_of(name).items()}
        secrets = {one["target"]: self.secrets[one["source"]] for one in SERVICES[name]["secrets"]}
        temporary = self.folder / f"tmp-{name}"
        temporary.mkdir(exist_ok=True)
        own = {key: value.replace("/tmp/", f"{temporary}/", 1) for key, value in own.items()}
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(temporary),
            "no_proxy": "*",
            **own,
            **secrets,
        }

    def start(self, name: str) -> None:
        words = [self.here(word, name) for word in SERVICES[name]["command"]]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "gen_worker.cli", *words],
                cwd=self.data,
                env=self.environment(name),
                stdout=log,
                stderr=log,
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def is_healthy(self, name: str) -> bool:
        python, *words = SERVICES[name]["healthcheck"]["test"][1:]
        assert python == "python"
        command = [sys.executable, *(self.here(word, name) for word in words)]
        done = subprocess.run(
            command, env=self.environment(name), capture_output=True, timeout=TIMEOUT_S, check=False
        )
        return done.returncode == 0

    def wait_for(self, name: str) -> None:
        """Wait until a service is healthy; one that ends before is started again."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.is_healthy(name):
            assert time.monotonic() < deadline, self.log(name)
            if self.processes[name].poll() is not None:
                self.start(name)

    def stop(self, name: str) -> int:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(TIMEOUT_S)

    def command(self, *words: str) -> str:
        """Run one of the commands that the file's comment shows, and return its output."""
        environment = self.environment("scheduler") | {
            "GEN_WORKER_URL": f"http://127.0.0.1:{self.ports['8787']}",
            "GEN_WORKER_TOKEN": self.secrets["platform"],
        }
        done = subprocess.run(
            [sys.executable, "-m", "gen_worker.cli", *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for process in machine.processes.values():
        process.kill()
        process.wait(TIMEOUT_S)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_make_a_platform(machine: Machine) -> None:
    for name in ("hub", "scheduler"):
        machine.start(name)
        machine.wait_for(name)
    project = ROOT / "examples" / "marco-polo"
    machine.command("deploy", "--name", "ada/marco-polo", str(project))
    for name in WORKERS:
        machine.start(name)
    for name in WORKERS:
        machine.wait_for(name)
    url = f"http://127.0.0.1:{machine.ports['8787']}/v1/request/ada/marco-polo/marco-polo"
    curl = ("curl", "-s", "--noproxy", "*", url, "-d", '{"text": "marco"}')
    for authorization, is_allowed in ((machine.secrets["platform"], True), ("nobody", False)):
        done = subprocess.run(
            [*curl, "-H", f"authorization: Bearer {authorization}"],
            stdout=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=True,
        )
        answer = msgspec.json.decode(done.stdout)
        assert answer.get("success", False) is is_allowed, answer
    for name in (*WORKERS, "scheduler", "hub"):
        assert machine.stop(name) == 0, machine.log(name)
