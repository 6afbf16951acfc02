"""Questions about the user, answered from memory: rendered blocks first, recalled passages if those are silent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from trunkline.model_server.facts import TOPIC_FIELDS, clauses, is_question, words
from trunkline.model_server.memory_view import Block, MemoryView

EVERYTHING = "everything"
UNRELATED = "unrelated"

_MOST_RECALLED = 5
# What a question about a topic looks like; the first that is found counts.
_ASKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("name", re.compile(r"\bmy (?:\w+ )?name\b|\bwho am i\b|\bwhat am i called\b|\bcall me\b", re.IGNORECASE)),
    ("email", re.compile(r"\be-?mail\b", re.IGNORECASE)),
    ("purchase", re.compile(r"\b(?:buy|bought|purchased?|purchases|order(?:ed|s)?)\b", re.IGNORECASE)),
    (
        "location",
        re.compile(r"\b(?:where do i live|where am i|my (?:location|address|city|home|country))\b", re.IGNORECASE),
    ),
    ("preference", re.compile(r"\b(?:like|love|prefer(?:ence)?s?|favou?rites?|colou?r|size)\b", re.IGNORECASE)),
    (
        EVERYTHING,
        re.compile(
            r"\b(?:about me|know me|remember (?:me|of me)|what do you (?:know|remember)|my profile|everything)\b",
            re.IGNORECASE,
        ),
    ),
)
# What a recalled passage about a topic looks like.
_TELLS: dict[str, re.Pattern[str]] = {
    "name": re.compile(r"\bname(?: is|'s)\b|\bcall(?:ed)? me\b|\bi(?: am|'m) called\b", re.IGNORECASE),
    "email": re.compile(r"\S@\S", re.IGNORECASE),
    "purchase": re.compile(r"\b(?:bought|purchased|ordered|returned)\b", re.IGNORECASE),
    "location": re.compile(r"\b(?:live|living|based|reside) in\b|\bfrom\b", re.IGNORECASE),
    "preference": re.compile(r"\b(?:like|love|enjoy|prefer|hate|favou?rite|size)\b", re.IGNORECASE),
    EVERYTHING: re.compile(r"\b(?:i|i'm|i've|my)\b", re.IGNORECASE),
}
_WORD = re.compile(r"[a-z0-9]{3,}", re.IGNORECASE)
_COMMON = frozenset(
    _WORD.findall(
        "about all and any are but can could did does for from get got had has have her his how its know mine not our "
        "out please said say she tell that the them there they this was "
        "were what when where which who why with you your"
    )
)


def asked(text: str) -> list[str]:
    """Return the questions in a message."""
    return [clause for clause in clauses(text) if is_question(clause)]


def topics(question: str, memory: MemoryView) -> list[str]:
    """Say what a question is about: topics and names of fields, or only `everything`, or only `unrelated`."""
    lowered = question.lower()
    names = TOPIC_FIELDS["name"]
    found = [
        field for block in memory.blocks for field in block.fields if words(field) in lowered and field not in names
    ]
    found += [name for name, pattern in _ASKS if pattern.search(question)]
    narrow = [name for name in dict.fromkeys(found) if name != EVERYTHING]
    return narrow or found or [UNRELATED]


def replied(questions: Sequence[str], memory: MemoryView) -> str:
    """Answer all questions of a message, and name once, at the end, what is still unknown."""
    wanted = [(about, question) for question in questions for about in topics(question, memory)]
    if all(about == UNRELATED for about, _ in wanted):
        return " ".join(_from_recall(UNRELATED, " ".join(questions), memory)) or "I do not know that."
    if not memory.present:
        return "I do not know anything about you: there is no memory in my prompt."
    sentences: list[str] = []
    unknown: list[str] = []
    recalled: set[str] = set()
    for about, question in wanted:
        known = list(_known(about, question, memory.blocks))
        if not known and (known := _from_recall(about, question, memory)):
            recalled |= {about, *TOPIC_FIELDS.get(about, ())}
        sentences += known
        if not known and about == EVERYTHING:
            sentences.append("I do not know anything about you yet.")
        elif not known:
            unknown.append(_missing(about, memory.blocks))
    required = [name for block in memory.blocks for name in block.required_unknown if name not in recalled]
    still = dict.fromkeys(words(name) for name in [*unknown, *required])
    return " ".join(dict.fromkeys([*sentences, *(f"I still do not know your {name}." for name in still)]))


def told(field: str, value: object) -> str:
    """Return a sentence that says a field's value."""
    if field in TOPIC_FIELDS["purchase"]:
        return f"You bought {_listed(value)}."
    if field in TOPIC_FIELDS["preference"]:
        return f"You prefer {_listed(value)}."
    if field in TOPIC_FIELDS["location"] and isinstance(value, str) and field != "address":
        return f"You live in {value}."
    verb = "are" if isinstance(value, (list, dict)) and len(value) != 1 else "is"
    return f"Your {words(field)} {verb} {_listed(value)}."


def _known(about: str, question: str, blocks: Iterable[Block]) -> Iterable[str]:
    for block in blocks:
        for field, value in block.values.items():
            if value in (None, "", [], {}):
                continue
            wanted = about in (EVERYTHING, field) or field in TOPIC_FIELDS.get(about, ())
            if about == "preference" and re.match(r"(?:favou?rite|preferred)_|(?:colou?r|size|likes|dislikes)$", field):
                wanted = True
            if not wanted:
                continue
            if about == "preference" and isinstance(value, dict):
                value = _asked_part(question, value)  # noqa: PLW2901  # only the part asked for is told
                if not value:
                    continue
            yield told(field, value)


def _asked_part(question: str, value: dict[str, object]) -> dict[str, object]:
    """Of preferences, the ones the question names; all if it names none; nothing if it names one that is not there."""
    lowered = question.lower().replace("color", "colour")
    named = {key: item for key, item in value.items() if re.search(rf"\b{re.escape(words(key))}\b", lowered)}
    if named:
        return named
    return {} if re.search(r"\bcolour\b|\bsize\b|\bfavou?rite \w+", lowered) else value


def _from_recall(about: str, question: str, memory: MemoryView) -> list[str]:
    pattern = _TELLS.get(about)
    wanted = {word.lower() for word in _WORD.findall(question)} - _COMMON
    found = []
    for passage in memory.recalled:
        if passage.role != "user" or any(is_question(clause) for clause in clauses(passage.text)):
            continue
        shared = wanted & {word.lower() for word in _WORD.findall(passage.text)}
        if pattern.search(passage.text) if pattern else shared:
            when = f" on {passage.date}" if passage.date else ""
            found.append(f'You told me{when}: "{passage.text.strip()}"')
    return found[:_MOST_RECALLED]


def _missing(about: str, blocks: Iterable[Block]) -> str:
    """Return the name of the field that would hold what was asked for and is not known."""
    names = TOPIC_FIELDS.get(about, (about,))
    return next((name for block in blocks for name in block.fields if name in names), names[0])


def _listed(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{words(str(key))} {_listed(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_listed(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
