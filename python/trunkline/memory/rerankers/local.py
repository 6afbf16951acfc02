"""A cross-encoder that runs in this process: sentence-transformers, from a folder or an installed package."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from trunkline.errors import SetupError
from trunkline.memory.rerankers import RerankFailed, checked

AT_ONCE: Final = 16
"""Pairs in one go: so much is still computed for a search that did not wait for it."""

Score = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
"""Returns a score for each pair of query and text, between 0 and 1."""


class LocalReranker:
    """A loaded model, used from one thread: its library takes the processor as it wants."""

    def __init__(self, score: Score) -> None:
        self._score = score
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reranker")

    async def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return how well each text answers the query; other searches come in between. Raises RerankFailed."""
        loop = asyncio.get_running_loop()
        found: list[float] = []
        for start in range(0, len(texts), AT_ONCE):
            pairs = [(query, text) for text in texts[start : start + AT_ONCE]]
            try:
                scores = await loop.run_in_executor(self._thread, self._score, pairs)
            except (RuntimeError, ValueError, IndexError) as error:  # what torch and tokenizers raise
                raise RerankFailed(f"The model failed: {type(error).__name__}.") from error
            found += checked(scores, len(pairs))
        return found


def load(folder: Path) -> LocalReranker:
    """Load a cross-encoder from a folder; nothing is downloaded.

    Raises SetupError for an extra that is not installed, and a folder that holds no model with one score a pair.
    """
    if not folder.is_dir():
        raise SetupError(f"The reranker's folder {folder} does not exist (memory.reranker in trunkline.yaml).")
    try:
        score = _cross_encoder(folder)
        score([("a query", "a passage")])
    except ImportError as error:
        raise SetupError(
            "The reranker needs sentence-transformers, which is not installed: pip install 'trunkline[rerank]'."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(f"The reranker's model cannot be loaded from {folder}: {error}") from error
    return LocalReranker(score)


def _cross_encoder(folder: Path) -> Score:
    from sentence_transformers import CrossEncoder  # noqa: PLC0415 (an extra; it takes seconds to import)
    from torch.nn import Sigmoid  # noqa: PLC0415 (comes with it)

    # The library would give an encoder of single texts a new head, at random.
    configured = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    made_as = next(iter(configured.get("architectures") or ()), "")
    if made_as.endswith("Model"):
        raise ValueError(f"it is an encoder of single texts ({made_as}), not a cross-encoder")
    model: Any = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    if model.num_labels != 1:
        raise ValueError(f"it has {model.num_labels} labels, where a reranker has one score")
    activation = Sigmoid()  # some models give logits, some do this themselves: all are asked for the same

    def score(pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        found: Sequence[float] = model.predict(
            list(pairs), batch_size=AT_ONCE, activation_fn=activation, show_progress_bar=False
        ).tolist()
        return found

    return score
