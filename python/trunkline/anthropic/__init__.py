"""Memory for the `anthropic` SDK: its memory tool over a store (`pip install 'trunkline[anthropic]'`).

The SDK's own client, pointed at Trunkline, reads and writes the memories; the model may be asked by another.
"""

from trunkline.anthropic.memory_tool import AsyncMemoryTool, MemoryTool

__all__ = ["AsyncMemoryTool", "MemoryTool"]
