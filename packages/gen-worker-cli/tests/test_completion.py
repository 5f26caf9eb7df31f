"""`gen-worker completion`: scripts that the shells themselves accept."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Cli


@pytest.mark.claims("completion.shells")
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_names_commands_and_options(cli: Cli, shell: str) -> None:
    done = cli("completion", shell)
    assert (done.stderr, done.code) == ("", 0)
    for word in ("run", "serve", "describe", "--payload-file", "--all-variants", "--max-steps"):
        assert word in done.stdout


@pytest.mark.claims("completion.shells")
def test_bash_completes_with_it(cli: Cli) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash on this machine")
    script = cli("completion", "bash").stdout
    (cli.folder / "script").write_text(script)
    ask = (
        "source ./script; COMP_WORDS=(gen-worker des); COMP_CWORD=1; "
        "_shtab_gen_worker; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(
        [bash, "--norc", "-c", ask], cwd=cli.folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["describe"]
