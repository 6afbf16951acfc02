"""Files of a session: nothing that a path or a link says leads out of their directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trunkline.runtime.tools.output import MAX_CHARACTERS, Output, bounded
from trunkline.runtime.tools.session_files import SessionFiles, fitting
from trunkline.runtime.tools.tool import ToolError, text


@pytest.fixture
def files(tmp_path: Path) -> SessionFiles:
    (tmp_path / "root/workspace/inner").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    return SessionFiles(tmp_path / "root", None)


def test_files_are_written_and_read_where_the_model_says(files: SessionFiles) -> None:
    files.write("a/b.txt", b"one")
    files.write("/workspace/a/b.txt", b"two")
    files.write("/mnt/x", b"three")
    assert files.read("a/./b.txt", 100) == b"two"
    assert (files.root / "mnt/x").read_bytes() == b"three"
    with pytest.raises(ToolError, match="3 bytes"):
        files.read("a/b.txt", 2)
    with pytest.raises(ToolError, match="No such file"):
        files.read("nothing", 2)


@pytest.mark.parametrize(
    "path", ["../../secret", "/../secret", "link", "up/secret", "inner/up2/secret", "pipe", "/", "inner", "a\0b", ""]
)
def test_what_leads_out_is_refused(files: SessionFiles, path: str) -> None:
    workspace = files.root / "workspace"
    (workspace / "link").symlink_to(files.root.parent / "secret")
    (workspace / "up").symlink_to("../..")
    (workspace / "inner/up2").symlink_to(files.root.parent)
    os.mkfifo(workspace / "pipe")
    with pytest.raises(ToolError):
        files.read(path, 100)
    if path in ("link", "pipe"):
        files.write(path, b"new")  # the name is replaced, not what it leads to
        assert files.read(path, 100) == b"new"
    else:
        with pytest.raises(ToolError):
            files.write(path, b"overwritten")
    assert (files.root.parent / "secret").read_text() == "secret"
    assert files.glob("**/secret", "/") == []


def test_a_pattern_finds_files_the_newest_first(files: SessionFiles) -> None:
    for age, name in enumerate(("new.py", "inner/old.py", "inner/deep/older.py", "other.txt")):
        files.write(name, b"")
        os.utime(files.root / "workspace" / name, (1000 - age, 1000 - age))
    assert files.glob("**/*.py", "/workspace") == [
        "/workspace/new.py",
        "/workspace/inner/old.py",
        "/workspace/inner/deep/older.py",
    ]
    assert files.glob("*.py", "/workspace") == ["/workspace/new.py"]
    assert files.glob("*", "inner") == ["/workspace/inner/old.py"]


def test_a_pattern_made_to_take_forever_does_not() -> None:
    assert not fitting("**/a" * 40 + "/b")(["a"] * 60)
    assert not fitting("*a" * 40 + "b")(["a" * 200])


def test_output_keeps_its_beginning_and_its_end() -> None:
    output = Output(limit=20)
    for _ in range(1000):
        output.add(b"0123456789abc")
    said = output.text()
    assert said.startswith("0123456789\n[")
    assert said.endswith("]\n3456789abc")
    assert "12980 bytes" in said
    [block] = bounded(text("x" * (10 * MAX_CHARACTERS))).content
    assert len(block["text"]) < MAX_CHARACTERS + 100
