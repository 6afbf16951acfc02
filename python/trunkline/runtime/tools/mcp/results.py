"""What MCP servers say, in the blocks of the Managed Agents wire. Whatever it is, a model must take it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from pydantic_core import to_json

from trunkline.runtime.tools.tool import Result

_BEGINNINGS: Final = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
    "application/pdf": (b"%PDF-",),
}
"""What models take, by how such a file begins: a provider refuses the whole conversation with one that is none."""
_MOST_SHOWN: Final = 5 << 20
"""Of an image or PDF, in bytes: what providers take."""
_MOST_FILES: Final = 20


def result(given: CallToolResult, clean: Callable[[str], str]) -> Result:
    """Return what a tool gave; `clean` is done to each text."""
    blocks = [_block(content) for content in given.content]
    files = 0
    for index, block in enumerate(blocks):
        if block["type"] != "text":
            files += 1
            if files > _MOST_FILES:
                blocks[index] = _text(f"[more than {_MOST_FILES} files: this one is left out]")
    if not blocks and given.structured_content is not None:
        blocks = [_text(to_json(given.structured_content).decode())]
    shown = [block if block["type"] != "text" else _text(clean(block["text"])) for block in blocks]
    return Result(tuple(block for block in shown if block.get("text") != ""), bool(given.is_error))


def _block(content: object) -> Mapping[str, Any]:
    match content:
        case TextContent():
            return _text(content.text)
        case ImageContent():
            return _file(content.mime_type, content.data)
        case AudioContent():
            return _text(f"[a sound of type {content.mime_type}, which cannot be shown]")
        case ResourceLink():
            about = f": {content.description}" if content.description else ""
            return _text(f"[{content.name}: {content.uri}{about}]")
        case EmbeddedResource(resource=BlobResourceContents() as file):
            return _file(file.mime_type or "", file.blob)
        case EmbeddedResource(resource=TextResourceContents() as file):
            return _text(file.text)
    return _text("[something that cannot be shown]")


def _file(media_type: str, data: str) -> Mapping[str, Any]:
    media_type = media_type.partition(";")[0].strip().lower()
    if media_type not in _BEGINNINGS:
        return _text(f"[a file of type {media_type or 'unknown'}, which cannot be shown]")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content.startswith(_BEGINNINGS[media_type]):
        return _text(f"[a file that is said to be of type {media_type}, and is not]")
    if len(content) > _MOST_SHOWN:
        return _text(f"[a file of type {media_type} was left out: it is too large]")
    kind = "document" if media_type == "application/pdf" else "image"
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}


def _text(words: str) -> Mapping[str, Any]:
    return {"type": "text", "text": words}
