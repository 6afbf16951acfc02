"""The SDK: `Trunkline()` talks to a running gateway about agents, memory, sessions, keys and usage.

Model calls need no SDK of ours: point `openai` or `anthropic` at the same base URL.
"""

from trunkline.client.agents import Agent, AppliedAgent, read_agents
from trunkline.client.client import Trunkline
from trunkline.client.connection import Connection
from trunkline.client.keys import Key, NewKey
from trunkline.client.memory import Actor, BlockVersion, StoredBlock
from trunkline.client.sessions import Event, Session
from trunkline.client.usage import Usage

__all__ = [
    "Actor",
    "Agent",
    "AppliedAgent",
    "BlockVersion",
    "Connection",
    "Event",
    "Key",
    "NewKey",
    "Session",
    "StoredBlock",
    "Trunkline",
    "Usage",
    "read_agents",
]
