"""The SDK: `Trunkline()` talks to a running gateway about agents, memory, sessions, keys, teams, users and usage.

Model calls need no SDK of ours: point `openai` or `anthropic` at the same base URL.
"""

from trunkline.client.agents import Agent, AppliedAgent, Change, read_agents
from trunkline.client.audit import AuditEntry
from trunkline.client.blocks import AsyncBlocks, Blocks
from trunkline.client.call_bodies import CallBodies
from trunkline.client.client import AsyncTrunkline, Trunkline
from trunkline.client.connection import Connection
from trunkline.client.deployments import Deployment, DeploymentRun
from trunkline.client.environments import Environment
from trunkline.client.erasure import Erasure
from trunkline.client.event_stream import Event
from trunkline.client.files import File
from trunkline.client.keys import Key, NewKey
from trunkline.client.limits import Limits, Team, UserLimits
from trunkline.client.memory import Actor, BlockVersion, StoredBlock
from trunkline.client.memory_files import Imported, ImportedAgentFile
from trunkline.client.memory_proposals import MemoryProposal
from trunkline.client.memory_stores import MemoryStore
from trunkline.client.retention import Retention
from trunkline.client.runs import Run
from trunkline.client.session_resources import SessionResource
from trunkline.client.sessions import Session, SessionContext, Turn
from trunkline.client.stored_memories import MemoryVersion, StoredMemory
from trunkline.client.usage import Usage
from trunkline.client.vaults import Credential, Vault
from trunkline.client.webhooks import Delivery, NewWebhook, Webhook

__all__ = [
    "Actor",
    "Agent",
    "AppliedAgent",
    "AsyncBlocks",
    "AsyncTrunkline",
    "AuditEntry",
    "BlockVersion",
    "Blocks",
    "CallBodies",
    "Change",
    "Connection",
    "Credential",
    "Delivery",
    "Deployment",
    "DeploymentRun",
    "Environment",
    "Erasure",
    "Event",
    "File",
    "Imported",
    "ImportedAgentFile",
    "Key",
    "Limits",
    "MemoryProposal",
    "MemoryStore",
    "MemoryVersion",
    "NewKey",
    "NewWebhook",
    "Retention",
    "Run",
    "Session",
    "SessionContext",
    "SessionResource",
    "StoredBlock",
    "StoredMemory",
    "Team",
    "Trunkline",
    "Turn",
    "Usage",
    "UserLimits",
    "Vault",
    "Webhook",
    "read_agents",
]
