"""Commands of tools in a sandbox: what they may do, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from trunkline.function_tools import ToolCall
from trunkline.runtime.tools.builtin import builtin
from trunkline.runtime.tools.local_sandbox import Confinement, LocalSandbox, confinement, open_sandbox
from trunkline.runtime.tools.tool import Result, ToolError

CALL = ToolCall("sevt_1", "sesn_1", "agent_1", "tnt_1", None)
DEFAULT = {"enabled": True, "permission_policy": {"type": "always_allow"}}


@pytest.fixture(params=["bubblewrap", "limits"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[LocalSandbox]:
    confined: Confinement = request.param
    if confined == "bubblewrap" and confinement() != "bubblewrap":
        pytest.skip("bubblewrap is not installed, or the kernel does not let it work")
    folder = Path(tempfile.mkdtemp(prefix="sandbox-", dir="/tmp"))  # other users cannot reach into pytest's own
    folder.chmod(0o711)
    try:
        yield open_sandbox(folder / "session", uuid4(), confined=confined, network=False)
    finally:
        shutil.rmtree(folder)


def call(sandbox: LocalSandbox, name: str, **given: Any) -> tuple[str, bool]:
    tools = {tool.name: tool for tool in builtin({"configs": [], "default_config": DEFAULT}, sandbox)}
    assert set(tools) == {"bash", "read", "write", "edit", "glob", "grep"}

    async def run() -> Result:
        return await tools[name].run(CALL, given)

    result = asyncio.run(run())
    return "".join(block["text"] for block in result.content), result.is_error


def running(marker: str) -> bool:
    """Tell whether a process of this machine was started with a marker."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker in (entry / "cmdline").read_text():
                return True
        except OSError:
            continue
    return False


def gone(marker: str) -> bool:
    give_up = time.monotonic() + 20
    while running(marker):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


def test_shell_and_file_tools_share_their_files(sandbox: LocalSandbox) -> None:
    assert call(sandbox, "bash", command="mkdir d; echo one two > d/f; pwd -P >&2; false")[1]
    assert call(sandbox, "read", file_path="d/f") == ("one two\n", False)
    assert call(sandbox, "edit", file_path="d/f", old_string="one", new_string="1")[1] is False
    assert call(sandbox, "write", file_path="g", content="1\n22\n333\n")[1] is False
    assert call(sandbox, "bash", command="cat d/f g; echo more >> g")[0] == "1 two\n1\n22\n333\n"
    assert call(sandbox, "read", file_path="/workspace/g", view_range=[2, 3]) == ("22\n333\n", False)
    found, failed = call(sandbox, "grep", pattern="^2+$")
    assert not failed
    assert found.endswith("/workspace/g:2:22\n")
    assert call(sandbox, "grep", pattern="nowhere") == ("Nothing was found.", False)
    assert call(sandbox, "glob", pattern="**/*")[0].split() == ["/workspace/g", "/workspace/d/f"]
    with pytest.raises(ToolError, match="not in"):
        call(sandbox, "edit", file_path="d/f", old_string="three", new_string="3")
    with pytest.raises(ToolError, match="command"):
        call(sandbox, "bash", command=["ls"])


def test_secrets_files_and_network_of_the_worker_are_out_of_reach(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secrets.token_hex(8)
    monkeypatch.setenv("PROVIDER_API_KEY", secret)
    outside = sandbox.files.root.parent / "outside"
    outside.write_text(secret)
    outside.chmod(0o600)
    looks = (
        f"env; cat {outside}; cat /proc/{os.getpid()}/environ /proc/$PPID/environ /proc/1/environ | tr '\\0' '\\n';"
        f"ln -s {outside} link; cat link; ls {sandbox.files.root.parent}"
    )
    if sandbox.confined == "limits" and os.geteuid() != 0:
        pytest.skip("commands that are the worker's own user can read its files; that is why this is not the default")
    assert secret not in call(sandbox, "bash", command=looks)[0]
    with pytest.raises(ToolError):
        call(sandbox, "read", file_path="link")
    assert call(sandbox, "bash", command="cat < /dev/tcp/127.0.0.1/22 || echo unreachable")[0].endswith("unreachable\n")
    assert "lo" in call(sandbox, "bash", command="cat /proc/net/dev")[0]
    assert len(call(sandbox, "bash", command="tail -n +3 /proc/net/dev")[0].splitlines()) == 1


def test_a_command_is_stopped_with_all_that_it_started(sandbox: LocalSandbox) -> None:
    marker = f"7{secrets.randbelow(10**9):09}"
    hang = f"setsid sleep {marker} & (nohup sleep {marker} >/dev/null 2>&1 &) ; echo begun; "
    said, failed = call(sandbox, "bash", command=f"{hang} sleep {marker}", timeout_ms=1500)
    assert failed
    assert said.startswith("begun")
    assert "stopped after 1.5 s" in said
    assert gone(marker)
    # What a command leaves in the background ends with it.
    assert call(sandbox, "bash", command=hang) == ("begun\n", False)
    assert gone(marker)


def test_a_fork_bomb_and_a_flood_are_bounded(sandbox: LocalSandbox) -> None:
    if os.geteuid() != 0:
        pytest.skip("processes are counted for the user, whose own would be in the way")
    marker = f"8{secrets.randbelow(10**9):09}"
    bomb = f"f() {{ sleep {marker} & f & f; }}; f; sleep {marker}"
    call(sandbox, "bash", command=bomb, timeout_ms=2000)
    assert gone(marker)
    said, failed = call(sandbox, "bash", command="head -c 1000000000 /dev/zero | tr '\\0' x; echo the end")
    assert not failed
    assert len(said) < 100_000
    assert said.endswith("the end\n")
    assert "were cut here" in said
    said, failed = call(sandbox, "bash", command="head -c 3000000000 /dev/zero > big; stat -c %s big")
    assert int(said.split()[-1] if not failed else 0) <= 1 << 30
