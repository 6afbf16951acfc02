"""Token counts, cached prefixes, faults from names and headers, embeddings, and the record."""

from __future__ import annotations

import math

import pytest

from trunkline.model_server import embeddings, faults, memory_view, tokens
from trunkline.model_server.anthropic_messages import AnthropicMessages
from trunkline.model_server.prompt import Answer, Message, Prompt, Segment, Usage
from trunkline.model_server.prompt_cache import CacheUse, PromptCache
from trunkline.model_server.record import MAX_REQUESTS, Entry, Record, masked
from trunkline.model_server.responder import limited


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def piece(tokens_: int, letter: str = "a", ttl: int | None = None) -> Segment:
    return Segment(letter.encode() * (tokens_ * 4), ttl)


def test_token_counts() -> None:
    assert [tokens.of_text(text) for text in ("", "a", "abcd", "abcde", "ää")] == [0, 1, 1, 2, 1]
    assert tokens.canonical("user", {"b": 1, "a": 2, "cache_control": {}}) == tokens.canonical("user", {"a": 2, "b": 1})
    photo = {"type": "image", "source": {"data": "x" * 100_000}}
    assert len(tokens.canonical("user", photo)) < 200
    text = "Grüße, 世界! " * 5
    assert "".join(tokens.pieces(text)) == text


def test_automatic_cache_counts_from_1024_in_steps_of_128() -> None:
    cache = PromptCache()
    assert cache.automatic("k", [piece(1023)]).read == 0
    assert cache.automatic("k", [piece(1023)]).read == 0
    assert cache.automatic("k", [piece(2000)]).read == 0
    assert cache.automatic("k", [piece(2000)]).read == 1024 + 7 * 128
    assert cache.automatic("k", [piece(1300), piece(900, "b")]).read == 1024 + 2 * 128
    assert cache.automatic("k", [piece(1), piece(1299), piece(900, "b")]).read == 1024 + 9 * 128
    assert cache.automatic("k", [piece(1, "c"), piece(1999)]).read == 0
    assert cache.automatic("another key", [piece(2000)]).read == 0


def test_cache_lives_five_minutes_after_its_last_use() -> None:
    clock = Clock()
    cache = PromptCache(clock)
    cache.automatic("k", [piece(1024)])
    for moment, read in ((299, 1024), (598, 1024), (898, 0)):
        clock.now = moment
        assert cache.automatic("k", [piece(1024)]).read == read


def test_cache_forgets_the_least_recently_used() -> None:
    cache = PromptCache(entries=2)
    for letter in "abac":
        cache.automatic("k", [piece(1024, letter)])
    assert cache.automatic("k", [piece(1024, "a")]).read == 1024
    assert cache.automatic("k", [piece(1024, "b")]).read == 0


def test_breakpoint_cache_reads_and_writes_only_up_to_breakpoints() -> None:
    cache = PromptCache()
    first = [piece(1000, "t"), piece(1000, "s", 300), piece(50, "u")]
    assert cache.at_breakpoints("k", first) == CacheUse(read=0, written_5m=2000)
    assert cache.at_breakpoints("k", first) == CacheUse(read=2000)
    longer = [*first, piece(500, "v", 300)]
    assert cache.at_breakpoints("k", longer) == CacheUse(read=2000, written_5m=550)
    assert cache.at_breakpoints("k", longer) == CacheUse(read=2550)
    assert cache.at_breakpoints("k", [piece(1000, "t"), piece(1000, "x", 300)]) == CacheUse(read=0, written_5m=2000)
    assert cache.at_breakpoints("k", [piece(1023, "z", 300)]) == CacheUse()
    assert cache.at_breakpoints("k", [piece(1000, "t"), piece(1000, "s")]) == CacheUse()


def test_breakpoint_moved_forward_finds_the_earlier_entry() -> None:
    cache = PromptCache()
    cache.at_breakpoints("k", [piece(2000, "s"), piece(10, "u", 300)])
    moved = [piece(2000, "s"), piece(10, "u"), *[piece(10, "v")] * 5, piece(10, "w", 3600)]
    assert cache.at_breakpoints("k", moved) == CacheUse(read=2010, written_1h=60)
    far = [piece(2000, "s"), piece(10, "u"), *[piece(10, "x")] * 25, piece(10, "w", 300)]
    assert cache.at_breakpoints("k", far) == CacheUse(read=0, written_5m=2270)


def test_a_text_and_a_list_of_one_are_one_prompt_wherever_its_breakpoints_are() -> None:
    def segments(content: object) -> list[bytes]:
        body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
        return [segment.data for segment in AnthropicMessages().parse(body).prompt.segments]

    marked = [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]
    assert segments("hello") == segments(marked) == segments([{"type": "text", "text": "hello"}])


def test_a_model_takes_the_newest_of_what_user_messages_say_of_memory() -> None:
    def block(name: str) -> str:
        return f'<memory block="customer" scope="user">\nname: "{name}"\n</memory>'

    def updated(name: str) -> Message:
        text = f"<trunkline-memory-update>\nIt has changed.\n{block(name)}\n</trunkline-memory-update>\n\nhello"
        return Message("user", text)

    said = (
        updated("Bob"),
        Message("assistant", "hi"),
        updated("Eve"),
        Message("assistant", "hi"),
        Message("user", "x"),
    )
    seen = memory_view.view(Prompt("m", said, (), system=block("Ada")))
    assert [known.values for known in seen.blocks] == [{"name": "Eve"}]
    assert Prompt("m", said[:3], ()).newest_user == "hello"


def test_one_hour_entries_outlive_five_minute_ones() -> None:
    clock = Clock()
    cache = PromptCache(clock)
    prompt = [piece(1024, "a", 3600), piece(1024, "b", 300)]
    assert cache.at_breakpoints("k", prompt) == CacheUse(written_5m=1024, written_1h=1024)
    clock.now = 301
    assert cache.at_breakpoints("k", prompt) == CacheUse(read=1024, written_5m=1024)


def test_faults_from_model_names() -> None:
    def always(_fault: str, _times: int) -> bool:
        return True

    def of(model: str) -> dict[str, object]:
        return faults.from_model(model, always).model_dump(exclude_none=True)

    assert of("gpt-5") == of("slow-pokes-9000b") == of("error-42") == of("scut") == {}
    assert of("slow") == {"latency_ms": 2000}
    assert of("local/slow-5+chunk-1") == {"latency_ms": 5, "chunk_bytes": 1}
    assert of("gpt-5+error-529@4+tokens-20") == {"error": 529, "error_after_events": 4, "tokens_per_s": 20.0}
    assert of("rate-limit-7+stall-0+cut-2+malformed") == {
        "rate_limit": 7,
        "stall": 0,
        "cut_after_events": 2,
        "malformed": True,
    }


def test_counted_faults_ask_how_often() -> None:
    asked: list[tuple[str, int]] = []

    def never(fault: str, times: int) -> bool:
        asked.append((fault, times))
        return False

    assert faults.from_model("m+error-503x2", never).error is None
    assert asked == [("m+error-503x2 error-503x2", 2)]


def test_faults_from_headers_win_and_wrong_ones_are_named() -> None:
    given = faults.from_headers([(b"x-model-server-latency-ms", b"7"), (b"x-other", b"1")])
    merged = given.over(faults.Faults(latency_ms=1, stall=2))
    assert merged.model_dump(exclude_none=True) == {"latency_ms": 7, "stall": 2}
    with pytest.raises(ValueError, match="unknown header x-model-server-latency; known are x-model-server-latency-ms,"):
        faults.from_headers([(b"x-model-server-latency", b"7")])
    with pytest.raises(ValueError, match=r"x-model-server-error: .*'often'"):
        faults.from_headers([(b"x-model-server-error", b"often")])


def test_answers_are_cut_at_stops_and_limits() -> None:
    def cut(text: str, stops: tuple[str, ...] = (), max_tokens: int | None = None) -> Answer:
        asked = Prompt("m", (Message("user", "x"),), (), stops=stops, max_tokens=max_tokens)
        return limited(Answer(text), asked)

    assert cut("one two three", stops=("three", "two")) == Answer("one ", (), "stop_sequence", "two")
    assert cut("one two three", max_tokens=2) == Answer("one two ", (), "length")
    assert cut("one two three", max_tokens=4) == Answer("one two three")


def test_vectors_are_deterministic_units_and_near_for_shared_words() -> None:
    def near(a: str, b: str) -> float:
        return sum(x * y for x, y in zip(embeddings.vector(a, 384), embeddings.vector(b, 384), strict=True))

    assert math.isclose(near("red kettle", "red kettle"), 1.0)
    assert math.isclose(near("Red  kettle!", "kettle red"), 1.0)
    assert near("a red kettle", "the red kettle") > 0.5 > near("a red kettle", "annual tax report")
    assert math.isclose(sum(x * x for x in embeddings.vector("…", 3)), 1.0)


def test_record_is_bounded_and_masks_credentials() -> None:
    record = Record()
    for number in range(MAX_REQUESTS + 5):
        record.add(Entry("POST", "/p", (), b'{"n": %d}' % number, 200, Usage(10, 2, 1)))
    assert len(record.newest(5000)) == MAX_REQUESTS
    assert [entry["body"]["n"] for entry in record.newest(2)] == [MAX_REQUESTS + 3, MAX_REQUESTS + 4]
    assert record.newest(0) == []
    assert record.totals() == {
        "requests": 1005,
        "errors": 0,
        "input_tokens": 10_050,
        "output_tokens": 2010,
        "cached_tokens": 1005,
    }
    assert masked("authorization", "Bearer sk-1234567890abcdefghij") == "Bearer ***ghij"
    assert masked("x-api-key", "short") == "***"
    assert masked("user-agent", "short") == "short"
