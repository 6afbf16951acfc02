"""The command line. `main` is the entry point; one file a command or group of commands.

Exit status: 0 done, 1 error, 2 wrong usage or input, 3 not found, 4 conflict, 5 not allowed, 6 not reachable or
overloaded, 130 interrupted.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command in `sys.argv`; `gateway` without importing the rest of the command line."""
    if sys.argv[1:2] == ["gateway"]:
        from trunkline.cli.gateway import main as gateway

        sys.exit(gateway(sys.argv[2:]))
    from trunkline.cli.app import run

    sys.exit(run(sys.argv[1:]))
