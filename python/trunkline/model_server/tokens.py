"""Token counts: a deterministic estimate, four bytes of UTF-8 to a token, which is about right for English."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from trunkline.model_server.prompt import Answer, Segment

BYTES_PER_TOKEN = 4
_MEDIA = frozenset({"image", "image_url", "input_image", "document", "file", "input_file", "input_audio", "audio"})


def of_bytes(length: int) -> int:
    """Tokens of that many bytes, rounded up."""
    return -(-length // BYTES_PER_TOKEN)


def of_text(text: str) -> int:
    """Tokens of a text."""
    return of_bytes(len(text.encode("utf-8", "replace")))


def of_prompt(segments: Iterable[Segment]) -> int:
    """Tokens of the canonical prompt."""
    return of_bytes(sum(len(segment.data) for segment in segments))


def of_answer(answer: Answer) -> int:
    """Tokens of an answer: its text, and the name and arguments of each tool call. Never less than 1."""
    calls = sum(of_text(call.name) + of_text(compact(call.arguments)) for call in answer.tool_calls)
    return max(1, of_text(answer.text) + calls)


def canonical(kind: str, value: Mapping[str, Any]) -> bytes:
    """One piece of the canonical prompt: its kind and its compact JSON with sorted keys.

    Sorted, so that key order does not matter; without `cache_control`, so that moving a breakpoint does not
    change a prefix. An image or a file counts as its digest only.
    """
    shown: Mapping[str, Any] = {key: item for key, item in value.items() if key != "cache_control"}
    if shown.get("type") in _MEDIA:
        digest = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()
        shown = {"type": shown["type"], "sha256": digest}
    text = json.dumps(shown, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return f"{kind}:{text}\n".encode("utf-8", "replace")


def compact(value: object) -> str:
    """Compact JSON, as models write tool arguments."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def pieces(text: str) -> list[str]:
    """Cut a text into what a stream sends as one delta each: four characters, about one token."""
    return [text[start : start + BYTES_PER_TOKEN] for start in range(0, len(text), BYTES_PER_TOKEN)]
