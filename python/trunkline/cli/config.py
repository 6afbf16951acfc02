from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.output import AsJson, print_json, print_table

app = typer.Typer(help="Configuration files.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="trunkline.yaml, or LiteLLM's config.yaml.")], *, as_json: AsJson = False
) -> int:
    """Tell what becomes of each key of a file: used, ignored (and why), unsupported (and what to do instead), invalid.

    The environment counts as it does for `trunkline up`. Exit status 1 if anything is unsupported or invalid.
    """
    from trunkline._core import check_config, known_providers
    from trunkline.config_check import check as check_file
    from trunkline.provider_settings import KnownProvider

    known = [KnownProvider.model_validate(provider) for provider in json.loads(known_providers())]
    findings = check_file(file, os.environ, known, check_config)
    counts = Counter(found.status for found in findings)
    if as_json:
        print_json({"file": str(file), "keys": [found._asdict() for found in findings], "counts": counts})
    else:
        print_table(
            ("status", "key", "note"),
            [(found.status, found.key, found.note) for found in findings],
            empty="The file says nothing.",
        )
        print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if counts["unsupported"] or counts["invalid"] else 0
