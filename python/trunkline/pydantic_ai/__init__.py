"""Message histories of pydantic-ai in Trunkline (`pip install 'trunkline[pydantic-ai]'`)."""

from trunkline.client.extras import require

require("pydantic-ai", "pydantic_ai.messages")

from trunkline.pydantic_ai.history import History  # noqa: E402 - after what it needs is known to be there

__all__ = ["History"]
