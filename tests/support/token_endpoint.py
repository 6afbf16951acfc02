"""A token endpoint on loopback: its refresh tokens are good for one use, and one used twice ends the whole grant."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote_plus


class TokenEndpoint:
    """Gives tokens `at-verysecret-N` and `rt-verysecret-N`, the first of which (N = 0) the credential has."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        """The forms that were sent, with the client and how it proved itself."""
        self.given = 0
        self.is_over = False
        self.expires_in: object = 3600
        self.answer: tuple[int, str, bytes] | None = None
        """What it says instead: status, content type, body."""
        self.moved_to: str | None = None
        self.before: Callable[[], None] = lambda: None
        """Called before each answer."""
        self.on_given: Callable[[str], None] = lambda _: None
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body, strict_parsing=True).items()}
                shown = self.headers.get("authorization")
                if shown is not None:
                    client, _, secret = base64.b64decode(shown.removeprefix("Basic ")).decode().partition(":")
                    form |= {"basic": f"{unquote_plus(client)}:{unquote_plus(secret)}"}
                endpoint.before()
                status, kind, answer = endpoint.read(form)
                self.send_response(status)
                self.send_header("content-type", kind)
                if endpoint.moved_to is not None:
                    self.send_header("location", endpoint.moved_to)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base's name)
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/token"

    def read(self, form: dict[str, str]) -> tuple[int, str, bytes]:
        with self._lock:
            self.asked.append(form)
            if self.answer is not None:
                return self.answer
            if self.is_over or form["refresh_token"] != f"rt-verysecret-{self.given}":
                self.is_over = True
                said = {"error": "invalid_grant", "error_description": f"{form['refresh_token']} was used"}
                return 400, "application/json", json.dumps(said).encode()
            self.given += 1
            token = f"at-verysecret-{self.given}"
            self.on_given(token)
            tokens = {
                "access_token": token,
                "token_type": "bearer",
                "expires_in": self.expires_in,
                "refresh_token": f"rt-verysecret-{self.given}",
            }
            return 200, "application/json", json.dumps(tokens).encode()

    def auth(self, mcp_server_url: str, how: str = "client_secret_post", **more: Any) -> Any:
        """A credential whose tokens are those that it would have given first."""
        proof = {"type": how} if how == "none" else {"type": how, "client_secret": "cs:verysecret +%"}
        return {
            "type": "mcp_oauth",
            "mcp_server_url": mcp_server_url,
            "access_token": "at-verysecret-0",
            "refresh": {
                "client_id": "a client",
                "refresh_token": "rt-verysecret-0",
                "token_endpoint": self.url,
                "token_endpoint_auth": proof,
                "scope": "tools read",
                "resource": mcp_server_url,
            },
            **more,
        }


@contextmanager
def listening() -> Iterator[TokenEndpoint]:
    """Serve until the block ends."""
    endpoint = TokenEndpoint()
    thread = threading.Thread(target=endpoint.server.serve_forever, name="token endpoint")
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.server.shutdown()
        endpoint.server.server_close()
        thread.join()
