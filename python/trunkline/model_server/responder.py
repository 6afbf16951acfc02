"""Chooses the answer: the first rule of the script that matches, else the persona; then the limits the caller set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from trunkline.model_server import persona, tokens
from trunkline.model_server.faults import NO_FAULTS, Faults
from trunkline.model_server.prompt import Answer, Prompt
from trunkline.model_server.script import Script, ScriptedUsage


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and what the script wants of usage and faults for it."""

    answer: Answer
    usage: ScriptedUsage | None = None
    faults: Faults = NO_FAULTS


class Responder:
    """Holds how often each rule and each counted fault has been used."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._rules: Counter[int] = Counter()
        self._faults: Counter[str] = Counter()

    def clear(self) -> None:
        """Count from zero again."""
        self._rules.clear()
        self._faults.clear()

    def reply(self, prompt: Prompt) -> Reply:
        """Return the reply to a prompt."""
        for index, rule in enumerate(self._script.rules):
            if rule.times is not None and self._rules[index] >= rule.times:
                continue
            values = rule.matches(prompt)
            if values is not None:
                self._rules[index] += 1
                answer = rule.answer(values) or persona.answer(prompt)
                return Reply(limited(answer, prompt), rule.usage, rule.faults)
        return Reply(limited(persona.answer(prompt), prompt))

    def take(self, fault: str, times: int) -> bool:
        """Whether a fault that is to happen `times` times still does."""
        self._faults[fault] += 1
        return self._faults[fault] <= times


def limited(answer: Answer, prompt: Prompt) -> Answer:
    """Return the answer cut at the first stop sequence and at `max_tokens`. Tool calls are never cut."""
    text, stop, sequence = answer.text, answer.stop, answer.stop_sequence
    found = sorted((text.find(stopper), stopper) for stopper in prompt.stops if stopper and stopper in text)
    if found:
        text, stop, sequence = text[: found[0][0]], "stop_sequence", found[0][1]
    if prompt.max_tokens is not None and not answer.tool_calls and tokens.of_text(text) > prompt.max_tokens:
        kept = text.encode("utf-8", "replace")[: prompt.max_tokens * tokens.BYTES_PER_TOKEN]
        text, stop, sequence = kept.decode("utf-8", "ignore"), "length", None
    if text == answer.text and stop == answer.stop:
        return answer
    return replace(answer, text=text, stop="tool_calls" if answer.tool_calls else stop, stop_sequence=sequence)
