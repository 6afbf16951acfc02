from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


@pytest.mark.timeout(300)
def test_the_demo_keeps_every_fact_and_leaves_nothing_behind(tmp_path: Path) -> None:
    examples = Path(__file__).parents[2] / "examples"
    played = subprocess.run(
        [sys.executable, "-m", "trunkline", "demo", "--json", "--calls", "20", "--examples", str(examples)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert played.returncode == 0, played.stdout + played.stderr
    told = json.loads(played.stdout)
    assert told["ok"] is True
    assert told["lost"] == []
    assert {turn["client"] for turn in told["turns"]} == {"openai", "anthropic"}
    assert any((turn["pieces"] or 0) > 1 for turn in told["turns"]), "nothing was streamed"
    assert {"up", "gateway", "control", "worker", "postgres", "model"} <= told["killed"].keys()
    assert told["versions"]["customer"], "the block has no history"
    assert all(marks["p50"] > 0 for marks in told["latency_ms"].values())
    assert len(told["latency_ms"]) == 4
    assert told["restart_seconds"]["to first answer"] > 0
    assert {"gateway", "control", "worker"} <= told["resident_bytes"].keys()
    assert list(tmp_path.iterdir()) == []
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert [command for command in commands if any(str(tmp_path) in part for part in command)] == []
