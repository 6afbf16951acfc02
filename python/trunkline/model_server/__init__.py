"""A scripted model server: speaks the OpenAI and Anthropic wires, offline and the same every time.

It stands alone: nothing else of the package is imported here, and only the command line imports it.
"""

from trunkline.model_server.faults import Faults
from trunkline.model_server.server import run
from trunkline.model_server.wire import ModelServerError

__all__ = ["Faults", "ModelServerError", "run"]
