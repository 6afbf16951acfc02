"""Content blocks of events, in the Managed Agents vocabulary."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(_Frozen):
    """Text."""

    type: Literal["text"]
    text: Annotated[str, Field(min_length=1)]


class Base64Source(_Frozen):
    """Bytes in base64, and their MIME type."""

    type: Literal["base64"]
    media_type: Annotated[str, Field(min_length=1, max_length=255)]
    data: str


class UrlSource(_Frozen):
    """A URL that the model's provider reads."""

    type: Literal["url"]
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]


class PlainTextSource(_Frozen):
    """A document that is plain text."""

    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


class Image(_Frozen):
    """An image."""

    type: Literal["image"]
    source: Annotated[Base64Source | UrlSource, Field(discriminator="type")]


class Document(_Frozen):
    """A document, with a title and words on where it comes from."""

    type: Literal["document"]
    source: Annotated[Base64Source | PlainTextSource | UrlSource, Field(discriminator="type")]
    title: str | None = None
    context: str | None = None


class Citations(_Frozen):
    """Whether the model may cite."""

    enabled: bool


class SearchResult(_Frozen):
    """What a search found at `source`."""

    type: Literal["search_result"]
    source: str
    title: str
    citations: Citations
    content: tuple[Text, ...]


MessageContent = Annotated[Text | Image | Document, Field(discriminator="type")]
ResultContent = Annotated[Text | Image | Document | SearchResult, Field(discriminator="type")]
