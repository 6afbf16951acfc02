"""The control plane's own embedder, for gateways: an OpenAI-compatible endpoint behind a key that only they know."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from trunkline.api.deps import PartsDependency, key_text
from trunkline.errors import Internal, InvalidRequest, NotFound, Unauthenticated
from trunkline.memory.embedders import EmbeddingFailed

router = APIRouter(include_in_schema=False)

Text = Annotated[str, Field(min_length=1)]


class Embed(BaseModel):
    """A request of `/v1/embeddings`; token arrays are for models that are not ours."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    encoding_format: str = "float"
    dimensions: int | None = None


@router.post("/internal/v1/embeddings")
async def embed(request: Request, given: Embed, parts: PartsDependency) -> JSONResponse:
    """Make a vector of each text."""
    local = parts.embedding.served
    if local is None:
        raise NotFound("No embedder runs here; `memory.embedder` in trunkline.yaml says which one would.")
    if not hmac.compare_digest(key_text(request).encode(), local.key.encode()):
        raise Unauthenticated("This key is not the embedder's.")
    if given.encoding_format != "float" or given.dimensions not in (None, local.embedder.dimension):
        raise InvalidRequest(
            f"This embedder makes vectors of {local.embedder.dimension} floats; leave out encoding_format or ask for "
            "'float', and leave out dimensions.",
            param="encoding_format" if given.encoding_format != "float" else "dimensions",
        )
    texts = [given.input] if isinstance(given.input, str) else given.input
    try:
        vectors = await local.embedder.vectors(texts)
    except EmbeddingFailed as error:
        raise Internal(f"The embedder failed: {error.message}") from error
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    tokens = sum((len(text.encode()) + 3) // 4 for text in texts)  # estimated, as everywhere where nobody counts
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": local.embedder.model, "usage": usage})
