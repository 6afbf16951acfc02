"""`trunkline up` as a user meets it: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from support.postgres import temporary_home
from support.reranker import rerank_server
from trunkline import Trunkline
from trunkline.store.embedded import EmbeddedPostgres

STARTS_WITHIN_S = 60


class Up:
    """A running `trunkline up --json`."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready

    @property
    def client(self) -> Trunkline:
        return Trunkline(self.ready["base_url"], Path(self.ready["key_file"]).read_text().strip())

    def pid(self, name: str) -> int:
        """Return the pid of a process as `run.json` has it now."""
        run = json.loads(Path(self.ready["key_file"]).with_name("run.json").read_text())
        return int(run["processes"][name]["pid"])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trunkline", *arguments]


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "_API_KEY" not in name and name != "DATABASE_URL"}
    return kept | {"TRUNKLINE_HOME": str(home)}


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder
        EmbeddedPostgres(folder).destroy()


@contextmanager
def up(home: Path, **more: str) -> Iterator[Up]:
    """Start, wait until it is ready, and stop it at the end if it still runs; `more` is for its environment."""
    process = subprocess.Popen(
        command("up", "--json", "--listen", "127.0.0.1:0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(home) | more,
        cwd=home,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield Up(process, json.loads(line))
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def gone(pids: list[int]) -> bool:
    """Wait until none of the processes runs any more."""
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return not psutil.wait_procs(left, timeout=20)[1]


def eventually(condition: Any) -> bool:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        try:
            if condition():
                return True
        except (httpx.HTTPError, OSError, KeyError, ValueError):
            pass
        time.sleep(0.05)
    return False


def test_it_starts_tells_serves_and_stops(home: Path) -> None:
    with up(home) as running:
        ready = running.ready
        assert httpx.get(f"{ready['base_url']}/healthz").status_code == 200
        assert httpx.get(f"{ready['base_url']}/docs").status_code == 200
        assert stat.S_IMODE(Path(ready["key_file"]).stat().st_mode) == 0o600
        assert running.client.agents.apply({"name": "a"}).change == "created"
        assert json.loads((home / "run.json").read_text())["base_url"] == ready["base_url"]

        second = subprocess.run(command("up"), capture_output=True, text=True, env=environment(home), check=False)
        assert second.returncode == 1
        assert "already running" in second.stderr
        assert f"pid {running.process.pid}" in second.stderr
        assert ready["base_url"] in second.stderr
        assert second.stderr.count("\n") == 1
        assert running.client.agents.list(), "the second start must leave the first one alone"

        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == 0
        assert gone(list(ready["processes"].values()))
        assert not (home / "run.json").exists()


def test_a_reranker_gets_its_key_and_no_process_shows_it(home: Path) -> None:
    with rerank_server() as reranker:
        (home / "trunkline.yaml").write_text(
            f"memory: {{reranker: {{url: '{reranker.url}', model: by-count, api_key: os.environ/RERANKER}}}}\n"
        )
        with up(home, RERANKER="their-key") as running, running.client as client:
            store = client.memory_stores.create("notes")
            client.memory_stores.ingest(store, turns=[{"text": "the red lamp"}, {"text": "a lamp, with its lampshade"}])
            found = client.memory_stores.search(store, "lamp", rerank=True)
            assert "lampshade" in found[0].text
            shown = [" ".join(psutil.Process(running.pid(name)).cmdline()) for name in ("control", "worker", "gateway")]
        assert reranker.keys == ["Bearer their-key"]
        assert "their-key" not in "".join(shown + [log.read_text() for log in (home / "logs").iterdir()])


def test_its_settings_are_taken_on_while_it_runs(home: Path) -> None:
    settings = home / "trunkline.yaml"
    model = "providers: {p: {wire: openai_chat, base_url: 'http://127.0.0.1:9/v1', api_key: none}}\nmodels:\n"
    settings.write_text(model + "  before: {provider: p, model: m}\n")
    with up(home) as running:

        def models() -> list[str]:
            key = Path(running.ready["key_file"]).read_text().strip()
            answer = httpx.get(f"{running.ready['base_url']}/v1/models", headers={"authorization": f"Bearer {key}"})
            return [str(listed["id"]) for listed in answer.json()["data"]]

        assert eventually(lambda: models() == ["before"])
        pid = running.pid("gateway")
        settings.write_text(model + "  after: {provider: p, model: m}\n")
        assert eventually(lambda: models() == ["after"])
        settings.write_text("modles: {}")
        running.process.send_signal(signal.SIGHUP)
        assert running.process.stderr is not None
        told = [running.process.stderr.readline() for _ in range(2)]
        assert "was taken on: 1 models" in told[0]
        assert "was not taken on" in told[1]
        assert "unknown key `modles`" in told[1]
        assert models() == ["after"]
        assert running.pid("gateway") == pid, "nothing was started again"
        # What takes the gateway's place has the settings that are in force.
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: running.pid("gateway") != pid)
        assert eventually(lambda: models() == ["after"])


def test_what_crashes_is_started_again(home: Path) -> None:
    with up(home) as running:
        running.client.agents.apply({"name": "a"})
        for name in ("control", "gateway", "postgres"):
            before = running.pid(name)
            os.kill(before, signal.SIGKILL)
            assert eventually(lambda name=name, before=before: running.pid(name) != before), name
            assert eventually(lambda: _names(running) == ["a"]), f"no answer after {name} was killed"
        assert running.process.poll() is None


def test_a_killed_supervisor_leaves_nothing_that_the_next_does_not_clear(home: Path) -> None:
    with up(home) as first:
        first.client.agents.apply({"name": "a"})
        children = [pid for name, pid in first.ready["processes"].items() if name != "postgres"]
        first.process.kill()
        assert gone(children), "a child outlived its supervisor"
    with up(home) as second:
        assert [agent.name for agent in second.client.agents.list()] == ["a"]
        assert second.ready["key_file"] == first.ready["key_file"]


def test_everything_killed_at_once_comes_back_with_what_it_knew(home: Path) -> None:
    with up(home) as first:
        first.client.agents.apply({"name": "a"})
        for pid in [first.process.pid, *first.ready["processes"].values()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    with up(home) as second:
        assert [agent.name for agent in second.client.agents.list()] == ["a"]


def test_a_taken_port_is_told_in_one_line_and_nothing_stays(home: Path) -> None:
    with up(home) as running:
        listen = running.ready["base_url"].removeprefix("http://")
        with temporary_home() as other:
            refused = subprocess.run(
                command("up", "--listen", listen), capture_output=True, text=True, env=environment(other), check=False
            )
            assert refused.returncode == 1
            assert listen in refused.stderr
            assert refused.stderr.count("\n") == 1
            assert not (other / "postgres").exists()


def test_without_a_provider_it_says_how_to_add_one(home: Path) -> None:
    with subprocess.Popen(
        command("up", "--listen", "127.0.0.1:0"), stdout=subprocess.PIPE, text=True, env=environment(home), cwd=home
    ) as process:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        process.terminate()
        assert process.wait(60) == 0
    assert "OPENAI_API_KEY" in said
    assert "trunkline.yaml" in said
    assert str(home / "admin.key") in said


def test_ctrl_c_lets_a_call_finish_and_a_second_one_does_not_wait(home: Path, model_server: str) -> None:
    (home / "trunkline.yaml").write_text(
        f'providers: {{scripted: {{wire: openai_chat, base_url: "{model_server}/v1", api_key: none}}}}\n'
        "models: {soon: {provider: scripted, model: slow-3000}, late: {provider: scripted, model: slow-60000}}\n"
    )
    with up(home) as running, ThreadPoolExecutor() as calls:
        soon = calls.submit(_call, running, "soon")
        time.sleep(1)
        running.process.send_signal(signal.SIGINT)
        assert soon.result(30) == 200
        assert running.process.wait(30) == 0
    with up(home) as running, ThreadPoolExecutor() as calls:
        late = calls.submit(_call, running, "late")
        time.sleep(1)
        running.process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert running.process.poll() is None, "it did not wait for the call"
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(20) == 0
        assert gone(list(running.ready["processes"].values()))
        assert late.result(5) is None


def _call(running: Up, model: str) -> int | None:
    """Return the status of a model call; None if the connection broke."""
    key = Path(running.ready["key_file"]).read_text().strip()
    try:
        return httpx.post(
            f"{running.ready['base_url']}/v1/chat/completions",
            headers={"authorization": f"Bearer {key}"},
            json={"model": model, "messages": [{"role": "user", "content": "Hello."}]},
            timeout=90,
        ).status_code
    except httpx.TransportError:
        return None


def _names(running: Up) -> list[str]:
    base_url = running.ready["base_url"]
    key = Path(running.ready["key_file"]).read_text().strip()
    answer = httpx.get(f"{base_url}/v1/agents", headers={"x-api-key": key}, timeout=5)
    return [agent["name"] for agent in answer.json()["data"]]
