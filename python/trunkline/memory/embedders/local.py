"""Models that run in this process: sentence-transformers and model2vec, from a folder or an installed package."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from trunkline.errors import SetupError
from trunkline.memory.embedders import Vector, checked

AT_ONCE: Final = 16
"""Texts in one go: so long a query waits at most behind the background's work."""

Library = Literal["sentence_transformers", "model2vec"]
Encode = Callable[[Sequence[str]], Sequence[Vector]]


class LocalEmbedder:
    """A loaded model, used from one thread: its library takes the processor as it wants."""

    def __init__(self, encode: Encode, model: str, dimension: int | None) -> None:
        self._encode = encode
        self.model = model
        self.dimension = dimension
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")

    async def embed(self, tenant_id: UUID, texts: Sequence[str]) -> list[Vector]:  # noqa: ARG002 (it costs nobody)
        """Return a vector for each text. Raises EmbeddingFailed."""
        return await self.vectors(texts)

    async def vectors(self, texts: Sequence[str]) -> list[Vector]:
        """Return a vector for each text, on nobody's account; others' texts come in between. Raises EmbeddingFailed."""
        loop = asyncio.get_running_loop()
        found: list[Vector] = []
        for start in range(0, len(texts), AT_ONCE):
            some = list(texts[start : start + AT_ONCE])
            found += checked(await loop.run_in_executor(self._thread, self._encode, some), len(some), self.dimension)
        return found


def load(library: Library, source: Path | str, model: str, dimension: int | None) -> LocalEmbedder:
    """Load a model from a folder (`Path`) or, by name, from its hub.

    Raises SetupError for an extra that is not installed, a folder that holds no model, and another dimension than told.
    """
    if isinstance(source, Path) and not source.is_dir():
        raise SetupError(f"The embedder's folder {source} does not exist (memory.embedder in trunkline.yaml).")
    try:
        encode, has = _sentence_transformers(source) if library == "sentence_transformers" else _model2vec(source)
    except ImportError as error:
        extra = library.replace("_", "-")
        raise SetupError(
            f"The embedder needs {extra}, which is not installed: pip install 'trunkline[embed-{extra}]'."
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"The embedder's model cannot be loaded from {source}: {error}") from error
    if dimension is not None and has != dimension:
        raise SetupError(f"The embedder's model makes vectors of {has} numbers; trunkline.yaml says {dimension}.")
    return LocalEmbedder(encode, model, has)


def folder_of(package: str) -> Path:
    """Return the folder of the model that an installed package ships. Raises SetupError unless it ships one."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise SetupError(f"The package {package} is not installed; it is to ship a model (package: in trunkline.yaml).")
    root = Path(next(iter(found.submodule_search_locations)))
    # The weights tell the folder; a sub-folder of a model may hold weights of its own, so the highest counts.
    weights = sorted(root.rglob("*.safetensors"), key=lambda path: len(path.parts))
    folders = [path.parent for path in weights if len(path.parts) == len(weights[0].parts)]
    if len(set(folders)) != 1:
        raise SetupError(f"The package {package} ships {'no model' if not folders else 'several models'}; give `path`.")
    return folders[0]


def _sentence_transformers(source: Path | str) -> tuple[Encode, int]:
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 (an extra; it takes seconds to import)

    model: Any = SentenceTransformer(str(source), device="cpu", local_files_only=isinstance(source, Path))

    def encode(texts: Sequence[str]) -> Sequence[Vector]:
        found: Sequence[Vector] = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False).tolist()
        return found

    return encode, len(encode(["one"])[0])


def _model2vec(source: Path | str) -> tuple[Encode, int]:
    from model2vec import StaticModel  # noqa: PLC0415 (an extra)

    model: Any = StaticModel.from_pretrained(str(source))

    def encode(texts: Sequence[str]) -> Sequence[Vector]:
        found: Sequence[Vector] = model.encode(list(texts), show_progress_bar=False).astype("float64").tolist()
        return found

    return encode, len(encode(["one"])[0])
