"""The extension module: the gateway in Rust, and what of it Python uses too."""

from typing import final

__all__ = ["Gateway", "Redactor", "check_config", "detectors", "known_providers"]

@final
class Gateway:
    """A gateway, bound to its address when it is made.

    Raises ValueError that names what of the configuration is wrong, OSError where the address or the spool cannot be
    had.
    """

    def __new__(cls, config: str) -> Gateway: ...
    @property
    def port(self) -> int:
        """The port it listens on."""

    def serve(self) -> None:
        """Serve until `stop`, then drain. The interpreter is released for as long. Once only."""

    def reload(self, config: str) -> None:
        """Take on the providers, models and routing of another configuration, from the next call on.

        Calls under way go on as they began. Raises ValueError that names what is wrong; then all stays as it was.
        """

    def stop(self) -> None:
        """Begin the drain. May be called from any thread."""

@final
class Redactor:
    """What is looked for in texts, compiled from a JSON array of detectors' names and of `{name, pattern}`.

    Patterns take time linear in the text. Raises ValueError that says what is wrong.
    """

    def __new__(cls, spec: str) -> Redactor: ...
    def text(self, text: str) -> str:
        """Give a text with marks such as `[email]` in place of what is found in it. Raises UnicodeEncodeError."""

def check_config(config: str) -> None:
    """Raise ValueError that names what is wrong with a configuration, as far as can be told without starting."""

def known_providers() -> str:
    """Give the known providers as JSON.

    An array of {name, wire, family?, base_url, key_env?, default_model?, models, quirks}.
    """

def detectors() -> list[str]:
    """Give the names of the detectors there are."""
