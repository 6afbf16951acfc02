"""Settings that change while the gateway runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trunkline.processes.reload import Reload
from trunkline.settings import Settings, load

GOOD = "providers: {p: {wire: openai_chat, base_url: 'http://127.0.0.1:9/v1', api_key: none}}\n"


class Gateway:
    """What a reload did."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "trunkline.yaml"
        self.applied: list[Mapping[str, Any]] = []
        self.told: list[str] = []
        self.write(GOOD + "models: {a: {provider: p, model: a}}")
        settings = self.read()
        self.reload = Reload(
            settings,
            self.make(settings),
            read=self.read,
            make=self.make,
            apply=self.applied.append,
            tell=self.told.append,
        )

    def write(self, text: str) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        beside.replace(self.path)  # as editors do: another file under the same name

    def read(self) -> Settings:
        return load(self.path, {"TRUNKLINE_HOME": str(self.path.parent)})

    def make(self, settings: Settings) -> dict[str, Any]:
        return settings.gateway_config("host=/sock", "http://127.0.0.1:1", [])


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def names(config: Mapping[str, Any]) -> list[str]:
    return [model["name"] for model in config["models"]]


def test_a_change_is_taken_on_once(gateway: Gateway) -> None:
    gateway.reload.look()
    assert (gateway.applied, gateway.told) == ([], []), "nothing has changed"
    gateway.write(GOOD + "models: {b: {provider: p, model: b}}")
    gateway.reload.look()
    gateway.reload.look()
    assert [names(config) for config in gateway.applied] == [["b"]]
    assert gateway.told == [f"{gateway.path} was taken on: 1 models, 1 providers"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is not YAML"),
        ("modles: {}", "unknown key `modles`"),
        (GOOD + "models: {a: {provider: q, model: a}}", "needs provider 'q'"),
        (GOOD + "models: {a: {provider: p, model: a}}\nrouting: {default_fallbacks: [x]}", "a fallback goes to 'x'"),
    ],
)
def test_a_bad_file_changes_nothing_and_is_told_in_one_line(gateway: Gateway, text: str, why: str) -> None:
    gateway.write(text)
    gateway.reload.look()
    gateway.reload.look()
    assert gateway.applied == []
    (line,) = gateway.told
    assert line.startswith(f"{gateway.path} was not taken on, the settings of before stay: ")
    assert why in line
    assert "\n" not in line
    gateway.write(GOOD + "models: {c: {provider: p, model: c}}")
    gateway.reload.look()
    assert names(gateway.applied[0]) == ["c"]


def test_a_file_that_is_away_for_a_moment_changes_nothing(gateway: Gateway) -> None:
    gateway.path.unlink()
    gateway.reload.look()
    assert gateway.applied == []
    assert "cannot be read" in gateway.told[0]


def test_what_needs_a_restart_is_said_and_left_as_it_was(gateway: Gateway) -> None:
    more = "listen: 127.0.0.1:9\nmemory: {embedder: {model: e, dimension: 8}}\nca_file: /tmp/other.pem\n"
    more += "limits: {threads: 3}\n"
    gateway.write(GOOD + more + "models: {b: {provider: p, model: b}}")
    gateway.reload.look()
    assert gateway.told[0].endswith("; a restart takes on ca_file, listen, memory, threads")
    (config,) = gateway.applied
    assert (names(config), config["listen"], config["embedder"]) == (["b"], "127.0.0.1:4000", None)
    assert "threads" not in config


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("limits: {max_body_bytes: 5}", "max_body_bytes", 5),
        ("limits: {lease_seconds: 7}", "lease_ms", 7000),
        ("limits: {spool_max_bytes: 9}", "spool_max_bytes", 9),
        ("timeouts: {idle_ms: 6}", "timeouts", {"idle_ms": 6}),
        ("prices: [{provider: p, model: a, input: 1, output: 2}]", "prices", [{"provider": "p", "model": "a"}]),
        ("cache: {store: memory, ttl_seconds: 8}", "cache", {"store": "memory", "ttl_seconds": 8}),
        ("record: {bodies: errors}", "record", {"bodies": "errors"}),
        ("traces: {endpoint: 'http://127.0.0.1:4318'}", "traces", {"endpoint": "http://127.0.0.1:4318"}),
    ],
)
def test_limits_prices_timeouts_and_what_is_kept_need_no_restart(
    gateway: Gateway, text: str, key: str, value: object
) -> None:
    gateway.write(GOOD + "models: {a: {provider: p, model: a}}\n" + text)
    gateway.reload.look()
    assert "restart" not in gateway.told[0]
    (config,) = gateway.applied
    given = config[key][0] if isinstance(value, list) else config[key]
    wanted = value[0] if isinstance(value, list) else value
    assert (given | wanted if isinstance(wanted, dict) else wanted) == given


def test_who_asks_is_answered_though_nothing_changed(gateway: Gateway) -> None:
    gateway.reload.ask()
    gateway.reload.look()
    assert (gateway.applied, len(gateway.told)) == ([], 1)


def test_a_write_within_one_tick_of_the_clock_is_seen_by_its_length(gateway: Gateway) -> None:
    before = gateway.path.stat()
    gateway.path.write_text(GOOD + "models: {longer: {provider: p, model: b}}")
    os.utime(gateway.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    gateway.reload.look()
    assert names(gateway.applied[0]) == ["longer"]
