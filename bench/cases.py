"""What stands between the load client and the upstream in each case, apart from Trunkline (see trunkline_setup.py)."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from bench.load import Upstream
from bench.processes import CaseUnavailable, free_port, running, wait_for_answer

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
LITELLM_REQUIREMENT = "litellm[proxy]==1.106.*"


@dataclass(frozen=True)
class Case:
    """One thing to measure: where to send requests, and whose processor time and memory to read."""

    name: str
    url: str
    measured: tuple[int, ...]
    """Process ids; their descendants belong to them."""
    headers: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    """More of the load client's arguments."""
    companions: Mapping[str, int] = field(default_factory=dict)
    """Further processes that work for each request, by name; their processor time is told apart."""
    upstream_sees: str | None = None
    """Text that the request must hold when it reaches the upstream."""
    recorded: Callable[[datetime], int] | None = None
    """Asks how many requests were recorded since then."""


def settled(count: Callable[[datetime], int], since: datetime, expected: int) -> int:
    """Ask until the count since then has come to `expected`, for up to a minute, and return the last answer."""
    end = time.monotonic() + 60
    while (now := count(since)) < expected and time.monotonic() < end:
        time.sleep(0.2)
    return now


def direct(upstream: Upstream) -> Case:
    """The load client talks to the upstream itself; processor time and memory are the upstream's."""
    return Case(name="direct", url=upstream.url + CHAT, measured=(upstream.pid,))


@contextmanager
def nginx(upstream: Upstream, folder: Path) -> Iterator[Case]:
    """An nginx of our own as reverse proxy, keep-alive on both sides, one worker a core (Debian's default)."""
    binary = _nginx_binary()
    port = free_port()
    work = folder / "nginx"
    work.mkdir()
    configuration = work / "nginx.conf"
    configuration.write_text(nginx_configuration(work, port, upstream.url.removeprefix("http://")))
    log = work / "output.log"
    # -e: the log it opens before it has read the configuration.
    command = [binary, "-e", "stderr", "-p", str(work), "-c", str(configuration)]
    with running(command, log=log) as process:
        wait_for_answer(f"http://127.0.0.1:{port}/_count", process, log, seconds=10)
        yield Case(name="nginx", url=f"http://127.0.0.1:{port}{CHAT}", measured=(process.pid,))


def nginx_configuration(work: Path, port: int, upstream: str) -> str:
    """Return the text of an nginx.conf that relays `port` to `upstream` (host:port) and touches only `work`.

    A request of 16 KiB stays in memory (`client_body_buffer_size`), and no connection is closed for its age
    (`keepalive_requests`), so that nginx does its best.
    """
    scratch = "\n  ".join(
        f'{name}_temp_path "{work / name}";' for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
worker_processes auto;
worker_rlimit_nofile 20000;
pid "{work / "nginx.pid"}";
error_log stderr;
events {{ worker_connections 16384; }}
http {{
  {scratch}
  access_log off;
  client_body_buffer_size 64k;
  keepalive_requests 1000000000;
  upstream provider {{
    server {upstream};
    keepalive 1024;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


def _nginx_binary() -> str:
    """Find nginx, or install Debian's package when we may; raise CaseUnavailable otherwise."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    if found := shutil.which("nginx", path=places):
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("nginx is missing: installing Debian's package")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "nginx"]):
            subprocess.run(command, env=environment, check=False, capture_output=True)
        if found := shutil.which("nginx", path=places):
            return found
    raise CaseUnavailable("nginx is not installed: `apt-get install nginx` as root brings it")


@contextmanager
def litellm(upstream: Upstream, folder: Path, environment_folder: Path) -> Iterator[Case]:
    """The LiteLLM proxy with one worker, a master key and no database, in a virtual environment of its own."""
    binary = _litellm_binary(environment_folder)
    port = free_port()
    work = folder / "litellm"
    work.mkdir()
    configuration = work / "config.yaml"
    configuration.write_text(f"""\
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench-upstream, api_base: "{upstream.url}/v1", api_key: none}}
general_settings: {{master_key: sk-bench}}
""")
    settings = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DISABLE_ADMIN_UI": "True"}
    clean = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    log = work / "output.log"
    command = [str(binary), "--config", str(configuration), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1"]
    with running(command, log=log, environment={**clean, **settings}, folder=work) as process:
        wait_for_answer(f"http://127.0.0.1:{port}/health/liveliness", process, log, seconds=180)
        yield Case(
            name="litellm",
            url=f"http://127.0.0.1:{port}{CHAT}",
            measured=(process.pid,),
            headers=("authorization: Bearer sk-bench",),
        )


def _litellm_binary(environment_folder: Path) -> Path:
    binary = environment_folder / "bin" / "litellm"
    if not binary.exists():
        print(f"making the environment of LiteLLM ({LITELLM_REQUIREMENT}); this takes a few minutes")
        subprocess.run([sys.executable, "-m", "venv", str(environment_folder)], check=True)
        install = [str(environment_folder / "bin" / "pip"), "install", "--quiet", LITELLM_REQUIREMENT]
        if subprocess.run(install, check=False).returncode != 0:
            raise CaseUnavailable(f"pip could not install {LITELLM_REQUIREMENT}; its output above says why")
    return binary
