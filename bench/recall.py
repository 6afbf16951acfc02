"""Recall in stores of 5,000 and of 100,000 passages, and in one of many stores: by words, and with embeddings.

Timed is the SQL function that a model call waits for, over a Unix socket, from one connection, one search after the
other; the processor time of its Postgres process stands beside it, since on a busy machine that is the steadier figure.
The text is made up: words as frequent as their rank says (Zipf), 20 of them in the median (log-normal, 7 to 58 in nine
of ten), and the vectors of 384 numbers lie about 200 centres. How good recall is on real questions `trunkline bench
recall` tells; here, how many of the nearest embeddings are found of those that a comparison with all finds.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import Connection, RawCursor

from bench.machine import describe, sentence
from bench.memory import database, p
from trunkline.memory.embedding import SIGNS_UP_TO

HERE = Path(__file__).parent
VOCABULARY = 20_000
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwyz" for vowel in "aeiou"]
MANY = 1_000
"""Passages of each of the many stores."""
FIRST = 10
"""Stores that are written as users write; the others of the many are copies of these."""
CHUNK = 100
"""Copies made at once: so many stores' rows lie among each other."""
COPIES = ("stores", "passages", "postings", "statistics", "embeddings", "embedding_sets")


def word(rank: int) -> str:
    """Return the word of a rank; no two ranks share one."""
    syllables: list[str] = []
    while rank or not syllables:
        rank, syllable = divmod(rank, len(SYLLABLES))
        syllables.append(SYLLABLES[syllable])
    return "".join(syllables)


def text(length: int) -> str:
    """Return a text of so many words."""
    return " ".join(word(int(math.exp(random.random() * math.log(VOCABULARY)))) for _ in range(length))


def texts(count: int) -> list[str]:
    """Return texts of natural lengths."""
    return [text(max(1, round(random.lognormvariate(3.0, 0.65)))) for _ in range(count)]


def statements() -> dict[str, str]:
    """Return the statements of `recall_fill.sql` by name."""
    pieces = (HERE / "recall_fill.sql").read_text().split("-- name: ")[1:]
    return {piece.split("\n", 1)[0].strip(): piece.split("\n", 1)[1] for piece in pieces}


class Filling:
    """Fills a database with stores."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection, self._sql, self.tenant = connection, statements(), uuid4()
        self._run("schema_of_vectors")
        self._run("tenant", self.tenant)
        self._run("centres")

    def _run(self, name: str, *values: Any) -> Any:
        cursor = self._connection.execute(self._sql[name].encode(), values or None)
        return cursor.fetchall() if cursor.description else None

    def store(self, passages: int) -> UUID:
        """Write a store as users write, folded and embedded; a big one gets its index."""
        store = uuid4()
        self._run("store", self.tenant, store)
        given = texts(passages)
        for start in range(0, passages, MANY):
            self._run("passages", self.tenant, store, given[start : start + MANY])
        self._run("fold", self.tenant, store)
        self._run("embeddings", self.tenant, store)
        self._run("embedding_set", self.tenant, store)
        while self._run("shelve", SIGNS_UP_TO)[0][0]:
            pass
        return store

    def copies(self, of: Sequence[UUID], count: int) -> list[UUID]:
        """Add stores that hold what those given hold."""
        made: list[UUID] = []
        self._connection.execute("set session_replication_role = replica")
        while len(made) < count:
            new = [uuid4() for _ in range(min(CHUNK, count - len(made)))]
            old = [of[nth % len(of)] for nth in range(len(new))]
            for what in COPIES:
                self._run(f"copy_{what}", self.tenant, old, new)
            made += new
        self._connection.execute("set session_replication_role = origin")
        return made

    def settle(self) -> None:
        """Do what autovacuum would have done a little later."""
        self._connection.execute("vacuum (analyze)")
        self._connection.execute("checkpoint")

    def questions(self, stores: Sequence[UUID], count: int) -> list[tuple[UUID, str, str]]:
        """Return questions: some words of a passage of the store among others, and a vector near its own."""
        found = []
        each = -(-count // len(stores))
        for store in stores:
            for content, vector in self._run("sample", self.tenant, store, each):
                words = content.split()
                asked = [*random.sample(words, min(3, len(words))), *text(3).split()]
                found.append((store, " ".join(asked), vector))
        random.shuffle(found)
        return found[:count]

    def found(self, questions: Sequence[tuple[UUID, str, str]]) -> dict[str, float]:
        """Return how many percent of the nearest embeddings are found, of the 10 and of the 100 nearest."""
        shares: dict[int, list[float]] = {10: [], 100: []}
        for store, _, vector in questions:
            exact = self._run("nearest_of_all", self.tenant, store, vector)[0][0]
            got = self._run("nearest", self.tenant, store, vector)[0][0]
            for depth, all_of_depth in shares.items():
                all_of_depth.append(len(set(exact[:depth]) & set(got)) / depth)
        return {f"nearest_{depth}_found": round(100 * sum(some) / len(some), 1) for depth, some in shares.items()}


def search(control: str, tenant: UUID, questions: Sequence[tuple[UUID, str, str]], *, hybrid: bool) -> dict[str, float]:
    """Time a search for each question, a fifth of them again before that to warm up."""
    statement = statements()["recall"].encode()
    times: list[float] = []
    with psycopg.connect(control, autocommit=True, cursor_factory=RawCursor, prepare_threshold=0) as connection:
        connection.execute(statements()["schema_of_vectors"].encode())
        connection.execute("select set_config('trunkline.tenant', $1, false)", (str(tenant),))
        usage = Path(f"/proc/{connection.info.backend_pid}/schedstat")
        used: list[float] = []
        for store, query, vector in [*questions[: len(questions) // 5], *questions]:
            values = (tenant, store, query, vector if hybrid else None, "made up" if hybrid else None)
            before = int(usage.read_text().split()[0]) if usage.exists() else 0
            began = time.perf_counter()
            connection.execute(statement, values).fetchall()
            times.append(time.perf_counter() - began)
            used.append((int(usage.read_text().split()[0]) - before) / 1e9 if usage.exists() else 0.0)
    warm = len(questions) // 5
    return {
        "searches": len(questions),
        "p50_ms": p(times[warm:], 50),
        "p95_ms": p(times[warm:], 95),
        "cpu_p50_ms": p(used[warm:], 50),
        "cpu_p95_ms": p(used[warm:], 95),
    }


def measured(filling: Filling, control: str, stores: Sequence[UUID], searches: int) -> dict[str, Any]:
    """Measure searches of random ones of these stores."""
    filling.settle()
    questions = filling.questions(random.sample(stores, min(len(stores), searches)), searches)
    return {
        "lexical": search(control, filling.tenant, questions, hybrid=False),
        "hybrid": search(control, filling.tenant, questions, hybrid=True) | filling.found(questions[:50]),
    }


def measure(sizes: Sequence[int], many: int, searches: int) -> dict[str, Any]:
    """Measure stores of each size, then `FIRST` and `many` stores of `MANY` passages."""
    results: dict[str, Any] = {}

    def tell(name: str, result: dict[str, Any]) -> None:
        results[name] = result
        print(f"{name}: {json.dumps(result)}", flush=True)

    with (
        database(HERE.parent) as (admin, _, control, _, _),
        psycopg.connect(admin, autocommit=True, cursor_factory=RawCursor) as connection,
    ):
        connection.execute("set synchronous_commit = off")
        filling = Filling(connection)
        for size in sizes:
            began = time.perf_counter()
            store = filling.store(size)
            filled = round(time.perf_counter() - began)
            tell(f"{size} passages", measured(filling, control, [store], searches) | {"filled_in_s": filled})
        if many:
            stores = [filling.store(MANY) for _ in range(FIRST)]
            tell(f"{FIRST} stores of {MANY}", measured(filling, control, stores, searches))
            began = time.perf_counter()
            stores += filling.copies(stores, many - FIRST)
            filled = round(time.perf_counter() - began)
            tell(f"{many} stores of {MANY}", measured(filling, control, stores, searches) | {"filled_in_s": filled})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="5000,100000", help="passages of single stores; empty: none")
    parser.add_argument("--stores", type=int, default=1000, help=f"stores of {MANY} passages each; 0: none")
    parser.add_argument("--searches", type=int, default=500, help="of each kind")
    parser.add_argument("--out", type=Path, help="write the figures as JSON here")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")] if options.sizes else []
    machine = describe()
    print(sentence(machine))
    results = measure(sizes, options.stores, options.searches)
    if options.out:
        options.out.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
