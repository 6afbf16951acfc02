"""OpenAI embeddings: deterministic unit vectors made of hashed words, so that texts that share words are near."""

from __future__ import annotations

import array
import base64
import hashlib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trunkline.model_server import openai_errors, tokens
from trunkline.model_server.faults import Faults
from trunkline.model_server.fields import Fields, InvalidField, checked

DEFAULT_DIMENSIONS = 384
MAX_DIMENSIONS = 16_384
MAX_INPUTS = 2048
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class EmbeddingsCall:
    """A parsed request; token arrays are embedded as the words of their numbers."""

    model: str
    inputs: tuple[str, ...]
    dimensions: int
    encoding: Literal["float", "base64"]

    @property
    def input_tokens(self) -> int:
        """Tokens of all inputs."""
        return sum(tokens.of_text(text) for text in self.inputs)


def parse(body: Mapping[str, Any]) -> EmbeddingsCall:
    """Read a request; raises `ApiError`."""
    try:
        return _parse(Fields(body))
    except InvalidField as fault:
        raise openai_errors.invalid(fault) from fault


def body(call: EmbeddingsCall, wanted: Faults) -> dict[str, Any]:
    """Return the answer, with one vector for each input but for what the faults ask."""
    vectors = [vector(text, wanted.dimension or call.dimensions) for text in call.inputs]
    if wanted.nan:
        vectors = [[math.nan, *values[1:]] for values in vectors]
    if wanted.missing:
        vectors = vectors[: -wanted.missing]
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(values, call.encoding)}
        for index, values in enumerate(vectors)
    ]
    usage = {"prompt_tokens": call.input_tokens, "total_tokens": call.input_tokens}
    return {"object": "list", "data": data, "model": call.model, "usage": usage}


def vector(text: str, dimensions: int) -> list[float]:
    """Return a unit vector: each word, in lower case, adds ±1 at two places that its hash says."""
    values = [0.0] * dimensions
    for word in _WORD.findall(text.lower()) or [text]:
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=16).digest()
        for half in (digest[:8], digest[8:]):
            number = int.from_bytes(half, "big")
            values[(number >> 1) % dimensions] += 1.0 if number & 1 else -1.0
    length = math.sqrt(sum(value * value for value in values))
    if length == 0:  # the words cancelled each other out
        return [1.0, *values[1:]]
    return [value / length for value in values]


def _parse(fields: Fields) -> EmbeddingsCall:
    model = fields.require("model", str)
    encoding = fields.get("encoding_format", str) or "float"
    if encoding not in ("float", "base64"):
        raise fields.refuse("encoding_format", f"'{encoding}'. Supported values are: 'float' and 'base64'.")
    dimensions = fields.get("dimensions", int)
    if dimensions is not None and not 1 <= dimensions <= MAX_DIMENSIONS:
        raise fields.refuse("dimensions", f"{dimensions} is not between 1 and {MAX_DIMENSIONS}.")
    return EmbeddingsCall(
        model, _inputs(fields), dimensions or DEFAULT_DIMENSIONS, "base64" if encoding == "base64" else "float"
    )


def _inputs(fields: Fields) -> tuple[str, ...]:
    value = fields.value.get("input")
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(item, int) for item in value)):
        value = [value]
    items = fields.require("input", list) if not isinstance(value, list) else value
    if not 1 <= len(items) <= MAX_INPUTS:
        raise fields.refuse("input", f"expected 1 to {MAX_INPUTS} inputs, got {len(items)}.")
    texts = tuple(
        " ".join(map(str, item)) if isinstance(item, list) else checked(item, str, ("input", index))
        for index, item in enumerate(items)
    )
    if "" in texts:
        raise fields.refuse("input", "input cannot be an empty string.")
    return texts


def _encoded(values: list[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return values
    packed = array.array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()
