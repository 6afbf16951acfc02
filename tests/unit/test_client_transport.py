"""What the client does when the network breaks: it asks again where that is safe, and streams go on."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from trunkline import Trunkline, Unavailable

Answer = httpx.Response | httpx.TransportError
AT = "2026-01-01T00:00:00Z"
SESSION = {"id": "sesn_1", "status": "idle", "created_at": AT, "updated_at": AT}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


def client(answers: list[Answer]) -> tuple[Trunkline, list[httpx.Request]]:
    """A client whose network gives these answers, one after the other, and what it was asked."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = answers[len(asked) - 1]
        if isinstance(found, httpx.TransportError):
            raise found
        return found

    return Trunkline("http://127.0.0.1:1", "sk-tl-x", http=httpx.MockTransport(answer)), asked


class Broken(httpx.SyncByteStream):
    """A stream that ends with an error."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __iter__(self) -> Iterator[bytes]:
        yield self.text.encode()
        raise httpx.ReadError("cut off")


def frame(seq: int, kind: str = "agent.message") -> str:
    return f'event: {kind}\nid: {seq}\ndata: {{"id": "sevt_{seq}", "type": "{kind}", "seq": {seq}}}\n\n'


@pytest.mark.parametrize(
    "lost", [httpx.Response(503, json={"error": {"message": "busy"}}), httpx.ReadError("cut off")], ids=["503", "cut"]
)
def test_what_is_made_is_asked_for_again_under_the_same_key(lost: Answer) -> None:
    trunkline, asked = client([lost, httpx.Response(200, json=SESSION)])
    assert trunkline.sessions.create("helper").id == "sesn_1"
    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    assert len(asked) == 2


def test_what_may_have_been_done_without_a_key_is_not_done_again() -> None:
    trunkline, asked = client([httpx.ReadError("cut off")])
    with pytest.raises(Unavailable):
        trunkline.agents.archive("helper")
    assert len(asked) == 1


def test_a_server_that_stays_away_is_given_up() -> None:
    down = httpx.ConnectError("refused")
    trunkline, asked = client([down, down, down])
    with pytest.raises(Unavailable, match="trunkline up"):
        trunkline.sessions.get("sesn_1")
    assert len(asked) == 3


def test_a_stream_goes_on_where_it_broke_off() -> None:
    answers: list[Answer] = [
        httpx.Response(200, stream=Broken(frame(4) + frame(5) + 'data: {"id": "sevt_6", "ty')),
        httpx.ConnectError("refused"),
        httpx.Response(200, text=": ping\n\n" + frame(6) + frame(7, "session.deleted")),
    ]
    trunkline, asked = client(answers)
    found = [event.seq for event in trunkline.sessions.stream("sesn_1", after=3)]
    assert found == [4, 5, 6, 7]
    assert [request.url.params["after"] for request in asked] == ["3", "5", "5"]


def test_an_error_within_a_stream_is_raised() -> None:
    refused = (
        'event: error\ndata: {"type": "error", "error": {"type": "authentication_error", "message": "revoked"}}\n\n'
    )
    trunkline, _ = client([httpx.Response(200, text=frame(1) + refused)])
    stream = trunkline.sessions.stream("sesn_1", after=0)
    assert next(stream).seq == 1
    with pytest.raises(Exception, match="revoked"):
        next(stream)
