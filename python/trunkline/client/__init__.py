"""The SDK: `Trunkline()` talks to a running gateway about agents, memory, sessions, keys, teams, users and usage.

Model calls need no SDK of ours: point `openai` or `anthropic` at the same base URL.
"""

from trunkline.client.agents import Agent, AppliedAgent, Change, read_agents
from trunkline.client.audit import AuditEntry
from trunkline.client.blocks import AsyncBlocks, Blocks
from trunkline.client.client import AsyncTrunkline, Trunkline
from trunkline.client.connection import Connection
from trunkline.client.erasure import Erasure
from trunkline.client.keys import Key, NewKey
from trunkline.client.limits import Limits, Team, UserLimits
from trunkline.client.memory import Actor, BlockVersion, StoredBlock
from trunkline.client.memory_files import Imported, ImportedAgentFile
from trunkline.client.sessions import Event, Session
from trunkline.client.usage import Usage

__all__ = [
    "Actor",
    "Agent",
    "AppliedAgent",
    "AsyncBlocks",
    "AsyncTrunkline",
    "AuditEntry",
    "BlockVersion",
    "Blocks",
    "Change",
    "Connection",
    "Erasure",
    "Event",
    "Imported",
    "ImportedAgentFile",
    "Key",
    "Limits",
    "NewKey",
    "Session",
    "StoredBlock",
    "Team",
    "Trunkline",
    "Usage",
    "UserLimits",
    "read_agents",
]
