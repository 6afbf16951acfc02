from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.output import print_table

app = typer.Typer(help="Measure Trunkline on data of your own.", no_args_is_help=True)


@app.command("recall")
def recall(
    *,
    data: Annotated[Path, typer.Option(help="A recall set: conversations, and questions with their evidence (JSON).")],
    embedder: Annotated[
        str | None,
        typer.Option(help="A package that ships a sentence-transformers model, for hybrid search."),
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(help="A package or a folder with a cross-encoder of sentence-transformers, to rerank by."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Where to write the measures.")] = None,
) -> None:
    """Measure how well recall finds the turns that answer questions, and how fast, on a database of its own.

    That is an embedded Postgres, made and removed again, or that of DATABASE_URL, which must be of no other use.
    """
    import asyncio

    import uvloop

    from trunkline import settings
    from trunkline.benchmarks import recall as benchmark
    from trunkline.benchmarks.recall_set import read
    from trunkline.memory.embedders.local import folder_of, load
    from trunkline.memory.rerankers import local as rerankers
    from trunkline.processes.postgres import Postgres
    from trunkline.store.embedded import EmbeddedPostgres
    from trunkline.store.migrate import migrate

    recall_set = read(data)
    model = load("sentence_transformers", folder_of(embedder), embedder, None) if embedder else None
    place = None if reranker is None else Path(reranker)
    order = None if place is None else rerankers.load(place if place.is_dir() else folder_of(str(reranker)))
    home = Path(tempfile.mkdtemp(prefix="trunkline-bench-"))
    home.chmod(0o711)  # where root runs this, Postgres runs as another user, who passes through
    postgres = Postgres(settings.load(None, {**os.environ, "TRUNKLINE_HOME": str(home)}))
    try:
        addresses = postgres.start()
        migrate(addresses.owner, embedded=addresses.embedded)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            measured = runner.run(
                benchmark.run(recall_set, addresses.owner, addresses.control, _tell, embedder=model, reranker=order)
            )
    finally:
        postgres.stop()
        EmbeddedPostgres(home).destroy()
        shutil.rmtree(home)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    names = list(next(iter(measured.values())))
    rows = [[name, *(kind[name] for kind in measured.values())] for name in names]
    print_table(["measure", *measured], rows, empty="")


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
