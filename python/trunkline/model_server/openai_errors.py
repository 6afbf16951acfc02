"""The error shape that OpenAI's chat, responses and embeddings share."""

from __future__ import annotations

import json
from typing import Any

from trunkline.model_server.fields import InvalidField, Path
from trunkline.model_server.wire import ApiError

_KINDS = {401: "invalid_request_error", 403: "invalid_request_error", 429: "requests"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def body(error: ApiError) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`."""
    kind = (
        error.kind or _KINDS.get(error.status) or ("server_error" if error.status >= 500 else "invalid_request_error")
    )
    code = error.code or _CODES.get(error.status)
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}


def event(error: ApiError) -> bytes:
    """Return an error in the middle of a chat stream: a `data:` line with the error body."""
    return b"data: " + json.dumps(body(error)).encode() + b"\n\n"


def invalid(fault: InvalidField) -> ApiError:
    """Word a faulty field as OpenAI does."""
    name = dotted(fault.path)
    if fault.problem == "missing":
        if fault.path == ("model",):
            return ApiError(400, "you must provide a model parameter")
        message, code = f"Missing required parameter: '{name}'.", "missing_required_parameter"
    elif fault.problem == "type":
        message = (
            f"Invalid type for '{name}': expected {_article(fault.expected)}, but got {_article(fault.got)} instead."
        )
        code = "invalid_type"
    else:
        message, code = f"Invalid value for '{name}': {fault.expected}", "invalid_value"
    return ApiError(400, message, param=name, code=code)


def dotted(path: Path) -> str:
    """`messages[0].content`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _article(name: str) -> str:
    return name if name == "null" else f"an {name}" if name[0] in "aeio" else f"a {name}"
