"""Sessions of the OpenAI Agents SDK in Trunkline (`pip install 'trunkline[openai-agents]'`)."""

from trunkline.client.extras import require

require("openai-agents", "agents.memory.session")

from trunkline.openai_agents.session import TrunklineSession  # noqa: E402 - after what it needs is known to be there

__all__ = ["TrunklineSession"]
