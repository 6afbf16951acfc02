"""LangGraph's memory in Trunkline (`pip install 'trunkline[langgraph]'`).

`TrunklineSaver` is a checkpointer: the state of a graph's threads after every step. `TrunklineStore` is a store: what
is kept beyond a thread, and found again by what it says.
"""

from trunkline.client.extras import require

require("langgraph", "langgraph.checkpoint.base")

from trunkline.langgraph.saver import TrunklineSaver  # noqa: E402 - after what it needs is known to be there
from trunkline.langgraph.store import TrunklineStore  # noqa: E402

__all__ = ["TrunklineSaver", "TrunklineStore"]
