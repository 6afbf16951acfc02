"""MCP servers as tools: `tools.py` offers and calls them, over `connections.py`; `credentials.py` reads the vaults.

All but `credentials.py` need the package `mcp`, an extra, which takes a second to import.
"""
