"""A host of git repositories on loopback, over http: git's own backend behind a check of tokens."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def git(*arguments: str, at: Path) -> str:
    """Run git as its own author, and return what it prints."""
    us = {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    settings = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
    done = subprocess.run(["git", *arguments], cwd=at, env=us | settings, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class GitServer:
    """Serves the repositories of a folder to who shows `token`; None: to everybody."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token: str | None = None
        self.status: int | None = None
        """What it answers instead."""
        self.moved_to: str | None = None
        self.asked: list[str] = []
        """The tokens that were shown."""
        self.before: Callable[[], None] = lambda: None
        """Called before each answer to who may have one."""
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.answer(self, b"")

            def do_POST(self) -> None:
                length = self.headers.get("content-length")
                body = b"".join(iter(self._chunk, b"")) if length is None else self.rfile.read(int(length))
                host.answer(self, body)

            def _chunk(self) -> bytes:
                piece = self.rfile.read(int(self.rfile.readline(), 16))
                self.rfile.readline()
                return piece

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base's name)
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def made(self, name: str, *, content: str = "hello") -> str:
        """Make a repository with a branch `main`, and `other` beside it; return its URL."""
        work = self.folder / f"{name}.work"
        work.mkdir()
        git("init", "--quiet", "--initial-branch=main", at=work)
        for branch, words in (("main", content), ("other", "elsewhere")):
            git("checkout", "--quiet", "-B", branch, at=work)
            (work / "README").write_text(words)
            git("add", ".", at=work)
            git("commit", "--quiet", "--message", branch, at=work)
        git("checkout", "--quiet", "main", at=work)
        git("clone", "--quiet", "--bare", str(work), str(self.folder / f"{name}.git"), at=self.folder)
        return f"{self.base_url}/{name}.git"

    def answer(self, to: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer one request as git's backend does."""
        shown = to.headers.get("authorization")
        token = None
        if shown is not None:
            token = base64.b64decode(shown.removeprefix("Basic ")).decode().partition(":")[2]
            self.asked.append(token)
        headers: list[tuple[str, str]] = []
        status, content = self.status, b""
        if status is None and self.token is not None and token != self.token:
            status, headers = 401, [("www-authenticate", 'Basic realm="git"')]
            content = f"not with {token}".encode()
        elif self.moved_to is not None:
            status, headers = 301, [("location", self.moved_to + to.path)]
        elif status is None:
            self.before()
            status, headers, content = self._backend(to, body)
        to.send_response(status)
        for name, value in headers:
            to.send_header(name, value)
        to.send_header("content-length", str(len(content)))
        to.end_headers()
        to.wfile.write(content)

    def _backend(self, to: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        parts = urlsplit(to.path)
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "REQUEST_METHOD": to.command,
            "CONTENT_TYPE": to.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": to.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": to.headers.get("git-protocol", ""),
        }
        said = subprocess.run(["git", "http-backend"], env=environment, input=body, check=False, capture_output=True)
        head, _, content = said.stdout.partition(b"\r\n\r\n")
        headers = [
            (name, value.strip()) for name, _, value in (line.partition(":") for line in head.decode().splitlines())
        ]
        status = next((int(value[:3]) for name, value in headers if name == "Status"), 200)
        return status, [(name, value) for name, value in headers if name != "Status"], content


@contextmanager
def listening(folder: Path) -> Iterator[GitServer]:
    """Serve until the block ends."""
    host = GitServer(folder)
    thread = threading.Thread(target=host.server.serve_forever, name="git server")
    thread.start()
    try:
        yield host
    finally:
        host.server.shutdown()
        host.server.server_close()
        thread.join()
