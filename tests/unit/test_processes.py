from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trunkline.errors import SetupError
from trunkline.processes.addresses import as_role
from trunkline.processes.child import Child
from trunkline.processes.home import Home, Run
from trunkline.processes.identity import Process, identify, stop_all
from trunkline.processes.logs import Tail, rotate
from trunkline.processes.ports import base_url, claim, listener, status_of

SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)",
]


def started(command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_process_is_more_than_its_pid() -> None:
    with started(SLEEP) as child:
        known = identify(child.pid)
        assert known is not None
        assert known.is_alive()
        assert not Process(child.pid, "another start").is_alive()
        child.kill()
        for _ in range(500):  # a zombie until it is waited for, and dead all the same
            if not known.is_alive():
                break
            time.sleep(0.01)
        assert not known.is_alive()
    assert identify(child.pid) is None


def test_stopping_asks_first_and_kills_then() -> None:
    with started(SLEEP) as polite, started(DEAF) as deaf:
        stop_all([p for child in (polite, deaf) if (p := identify(child.pid))], grace_s=0.3)
        assert polite.wait(5) == -signal.SIGTERM
        assert deaf.wait(5) == -signal.SIGKILL


def test_a_stranger_with_the_same_pid_is_left_alone() -> None:
    with started(SLEEP) as child:
        stop_all([Process(child.pid, "another start")], grace_s=0.1)
        assert child.poll() is None
        child.kill()


def test_run_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    home = Home(tmp_path)
    run = Run(7, "http://127.0.0.1:4000", "http://127.0.0.1:1", {"gateway": Process(8, "then")})
    home.write_run(run)
    assert home.read_run() == run
    assert json.loads((tmp_path / "run.json").read_text())["base_url"] == "http://127.0.0.1:4000"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1, "processes": {"a": 1}}'])
def test_a_broken_run_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert Home(tmp_path).read_run() is None


def test_the_key_is_its_owners_alone_and_an_old_one_is_kept_aside(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.read_key() is None
    home.write_key("sk-tl-one")
    home.write_key("sk-tl-two")
    assert home.read_key() == "sk-tl-two"
    assert (tmp_path / "admin.key.old").read_text() == "sk-tl-one\n"
    assert stat.S_IMODE(home.key_file.stat().st_mode) == 0o600


def test_tail_yields_whole_new_lines_only(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    log.write_text("before\n")
    tail = Tail([log])
    with log.open("a") as writer:
        writer.write("one\ntwo\nhal")
        writer.flush()
        assert list(tail.lines()) == [("gateway", "one"), ("gateway", "two")]
        writer.write("f\n")
    assert list(tail.lines()) == [("gateway", "half")]


def test_a_rotated_log_goes_on_at_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "control.log"
    with log.open("a") as writer:
        writer.write("x" * 100 + "\n")
        writer.flush()
        tail = Tail([log])
        rotate(log, max_bytes=50)
        writer.write("new\n")
    assert (tmp_path / "control.log.1").read_text() == "x" * 100 + "\n"
    assert log.read_text() == "new\n"
    assert list(tail.lines()) == [("control", "new")]


def test_a_taken_address_is_refused_with_advice() -> None:
    with listener("127.0.0.1:0") as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SetupError, match=where):
            claim(where)


def test_port_0_becomes_a_free_port() -> None:
    host, _, port = claim("127.0.0.1:0").rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:4000", "http://127.0.0.1:4000"),
        ("0.0.0.0:4000", "http://127.0.0.1:4000"),
        ("[::]:4000", "http://[::1]:4000"),
        ("example.org:80", "http://example.org:80"),
    ],
)
def test_base_url_is_one_that_can_be_reached(listen: str, url: str) -> None:
    assert base_url(listen) == url


def test_status_of_who_does_not_speak_http_is_none() -> None:
    with listener("127.0.0.1:0") as silent:
        assert status_of(f"http://127.0.0.1:{silent.getsockname()[1]}", "/", 0.05) is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("postgresql://me@db/x", "postgresql://me@db/x?options=-c%20role%3Dr"),
        ("postgres://db/x?sslmode=require", "postgres://db/x?sslmode=require&options=-c%20role%3Dr"),
        (
            "postgresql://db/x?options=-c%20jit%3Doff",
            "postgresql://db/x?options=-c%20jit%3Doff%20-c%20role%3Dr",
        ),
        ("host=db dbname=x", "host=db dbname=x options='-c role=r'"),
        ("postgresql:///db?host=/run/x", "postgresql:///db?host=%2Frun%2Fx&options=-c%20role%3Dr"),
    ],
)
def test_a_role_is_taken_on_beside_what_the_address_says(address: str, expected: str) -> None:
    assert as_role(address, "r") == expected


LIFELINE = """
import threading
from trunkline.processes import lifeline
print(lifeline.receive()["greeting"], flush=True)
gone = threading.Event()
lifeline.on_loss(gone.set)
gone.wait()
print("drained", flush=True)
"""


def test_a_child_learns_its_configuration_and_its_supervisors_death_through_the_pipe() -> None:
    child = subprocess.Popen([sys.executable, "-c", LIFELINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b'{"greeting": "hello"}\n')
    child.stdin.flush()
    assert child.stdout.readline() == b"hello\n"
    child.stdin.close()  # what the kernel does for a supervisor that was killed
    assert child.stdout.readline() == b"drained\n"
    assert child.wait(10) == 0
    child.stdout.close()


def test_a_child_whose_supervisor_dies_first_ends_quietly() -> None:
    ended = subprocess.run([sys.executable, "-c", LIFELINE], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_a_child_that_is_killed_while_it_works_is_back_at_once_however_often(tmp_path: Path) -> None:
    child = Child("control", tmp_path / "log")
    child.start()
    try:
        for _ in range(10):
            child.signal(signal.SIGKILL)
            wait_until(child.has_ended)
            now = time.monotonic() + 6  # it had been at work for six seconds
            assert child.tend(now) == "ended"
            assert child.tend(now) == "started"
    finally:
        end(child)


def test_a_child_that_ends_as_it_starts_is_started_less_and_less_often(tmp_path: Path) -> None:
    child = Child("control", tmp_path / "log")
    child.start()
    try:
        delays = []
        for _ in range(4):
            child.signal(signal.SIGKILL)
            wait_until(child.has_ended)
            now = time.monotonic()
            child.tend(now)
            assert child.tend(now) is None
            assert child.restart_at is not None
            delays.append(child.restart_at - now)
            assert child.tend(child.restart_at) == "started"
        assert delays == sorted(set(delays)), "each wait is longer than the one before"
    finally:
        end(child)


def end(child: Child) -> None:
    child.signal(signal.SIGKILL)
    wait_until(child.has_ended)


def wait_until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.005)
