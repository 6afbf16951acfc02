"""`python -m trunkline.model_server`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

import trunkline.model_server
from trunkline.model_server import Faults, ModelServerError, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with command-line arguments; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m trunkline.model_server", description=trunkline.model_server.__doc__
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000, help="0 takes a free port")
    parser.add_argument("--script", type=Path, help="YAML file of rules")
    parser.add_argument("--api-key", help="the only key accepted; any by default")
    for name, kind in _FAULT_OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=kind)
    for name in ("malformed", "nan"):
        parser.add_argument(f"--{name}", action="store_true", default=None)
    options = parser.parse_args(arguments)
    try:
        faults = Faults(**{name: getattr(options, name) for name in Faults.model_fields})
        run(options.host, options.port, options.script, defaults=faults, api_key=options.api_key)
    except ValidationError as fault:
        first = fault.errors()[0]
        parser.error(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}")
    except ModelServerError as fault:
        sys.stderr.write(f"error: {fault}\n")
        return 1
    return 0


_FAULT_OPTIONS: dict[str, type] = {
    "latency_ms": int,
    "tokens_per_s": float,
    "error": int,
    "error_type": str,
    "error_after_events": int,
    "rate_limit": int,
    "cut_after_events": int,
    "stall": int,
    "chunk_bytes": int,
    "dimension": int,
    "missing": int,
}

if __name__ == "__main__":
    sys.exit(main())
