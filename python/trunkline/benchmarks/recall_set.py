"""Recall sets: conversations, and questions whose answers stand in known turns.

JSON: `{"name", "conversations": [{"id", "turns": [{"id", "session", "time", "speaker", "text"}],
"questions": [{"question", "evidence": [turn id], "category"}]}]}`. A question is answered from its own conversation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trunkline.errors import InvalidRequest

Text = Annotated[str, Field(min_length=1)]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True)


class Turn(_Read):
    """What one speaker said; the caption of an image is part of the text."""

    id: Text
    session: Text
    speaker: Text
    text: str

    @property
    def passage(self) -> str:
        """What is kept and searched."""
        return f"{self.speaker}: {self.text}"


class Question(_Read):
    """A question, and the turns that answer it."""

    question: Text
    evidence: Annotated[list[Text], Field(min_length=1)]


class Conversation(_Read):
    """Turns in their order, those of a session together."""

    id: Text
    turns: Annotated[list[Turn], Field(min_length=1)]
    questions: list[Question]

    @model_validator(mode="after")
    def _complete(self) -> Conversation:
        known = {turn.id for turn in self.turns}
        if len(known) < len(self.turns):
            raise ValueError(f"conversation {self.id}: two turns have one id")
        for question in self.questions:
            if missing := set(question.evidence) - known:
                raise ValueError(f"conversation {self.id}: no turn is called {min(missing)}, an evidence")
        return self


class RecallSet(_Read):
    """Conversations; each becomes a store."""

    name: Text
    conversations: Annotated[list[Conversation], Field(min_length=1)]


def read(path: Path) -> RecallSet:
    """Read a set. Raises InvalidRequest that says what is wrong in it."""
    try:
        return RecallSet.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror or error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{path}: not a recall set: {where + ': ' if where else ''}{first['msg']}.") from error
