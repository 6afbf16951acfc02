"""The control plane as a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import httpx
import pytest

from support.control_plane import first_key
from support.postgres import DatabaseUrls
from trunkline.api.app import ControlSettings, run_control
from trunkline.errors import SetupError

PROGRAM = """
import sys
from trunkline.api.app import ControlSettings, run_control
run_control(ControlSettings(sys.argv[1]), "127.0.0.1", 0, on_listening=lambda port: print(port, flush=True))
print("drained", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_it_in_order(database: DatabaseUrls, number: signal.Signals) -> None:
    key = first_key(database.admin_url)
    command = [sys.executable, "-c", PROGRAM, database.control_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": key}) as http:
                http.post("/v1/agents", json={"name": "a"})
                session = http.post("/v1/sessions", json={"agent": "a"}).json()["id"]
                with http.stream("GET", f"/v1/sessions/{session}/events/stream") as stream:
                    lines = stream.iter_lines()
                    assert next(lines) == ": open"
                    process.send_signal(number)
                    assert list(lines) == [""], "the open stream ends in order"
            output, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (0, "drained\n", "")


def test_a_port_that_is_taken_is_said_plainly(database: DatabaseUrls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"cannot listen on 127.0.0.1:{port}"):
            run_control(ControlSettings(database.control_url), "127.0.0.1", port)
