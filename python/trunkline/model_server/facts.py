"""What a user states in plain English, as facts, and the memory operation that each fact is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trunkline.model_server.memory_view import Block

COLOURS = frozenset(
    re.findall(
        r"\w+",
        "beige black blue brown gold gray green grey navy orange pink purple red silver turquoise violet white yellow",
    )
)
# topic -> the names of fields that can hold it, best first
TOPIC_FIELDS: dict[str, tuple[str, ...]] = {
    "name": ("name", "full_name", "customer_name", "user_name", "first_name"),
    "email": ("email", "email_address", "mail", "contact"),
    "location": ("location", "city", "address", "home", "residence", "country", "place"),
    "purchase": ("recent_purchases", "purchases", "recent_orders", "orders", "bought"),
    "preference": ("preferences", "prefs", "likes"),
}

_READ_CHARACTERS = 4000  # of a message; what a person says of themselves comes first, what they paste after it
_CLAUSE_END = re.compile(
    r"(?<=[.!?;])\s+|\n|[.!;]+$|,?\s+(?:and|but)\s+(?=(?:i|i'm|i've|my)\b)|,\s*(?=(?:i|i'm|i've|my)\b)", re.IGNORECASE
)
_QUESTION = re.compile(
    r"(?:what|who|whom|whose|which|where|when|why|how|do|does|did|can|could|would|will|is|are|am|tell me|remind me"
    r"|show me|list)\b",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    r"(?:(?:hello|hi|hey|well|so|by the way|also|and|ok|okay|please|actually)\b[,!:\s]*)+", re.IGNORECASE
)
_TIME = re.compile(
    r"\s+(?:(?:just )?(?:yesterday|today|recently|lately|again|online|now)"
    r"|(?:last|this|the other|earlier this) (?:week|month|year|night|morning|day|weekend|spring|summer|autumn|winter"
    r"|monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
    r"|(?:\d+|a|two|three|a few|some) (?:days?|weeks?|months?|years?) ago"
    r"|(?:on|in|from|at) .+)$",
    re.IGNORECASE,
)
_PRONOUNS = frozenset(["it", "that", "this", "something", "them", "you", "these", "those"])
_ARTICLE = re.compile(r"^(?:a|an|the|some|my|one)\s+", re.IGNORECASE)
_AND_ALSO = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+", re.IGNORECASE)
_SIZE = re.compile(r"(?:in\s+)?(?:a\s+)?size\s+(?:is\s+)?(x{0,3}[sl]|m|\d{1,3}(?:\.5)?)", re.IGNORECASE)

_NAME = re.compile(
    r"(?:my (?:full )?name is|my name's|i am called|i'm called|(?:you can |please )?call me)\s+(.+)", re.IGNORECASE
)
_BOUGHT = re.compile(
    r"i(?:'ve| have)?(?: just| recently| also| already)* (?:bought|purchased|ordered|got myself)\s+(.+)", re.IGNORECASE
)
_RETURNED = re.compile(r"i(?:'ve| have)?(?: just)? (?:returned|sent back)\s+(.+)", re.IGNORECASE)
_LIKES = re.compile(r"i(?: really| also| usually| always)? (?:prefer|like|love|enjoy)\s+(.+)", re.IGNORECASE)
_DISLIKES = re.compile(r"i(?: really)? (?:do not like|don't like|dislike|hate)\s+(.+)", re.IGNORECASE)
_FAVOURITE = re.compile(r"my favou?rite ([\w ]+?) (?:is|are)\s+(.+)", re.IGNORECASE)
_WEARS = re.compile(r"(?:i (?:wear|take|need)|i am|i'm|my) (size .+)", re.IGNORECASE)
_EMAIL = re.compile(r"my e-?mail(?: address)? is\s+(\S+@\S+)", re.IGNORECASE)
_LIVES = re.compile(
    r"(?:(?:i (?:live|am living|reside|am based)|i'm (?:living|based)) in|(?:i am|i'm|i come) from)\s+(.+)",
    re.IGNORECASE,
)
_FORGET = re.compile(r"(?:please )?(?:forget|delete|remove) my ([\w -]+)", re.IGNORECASE)
_OTHER = re.compile(r"my ([\w -]+?) (?:is|are)\s+(.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing stated: `says` repeats it to the user ("your name is Ada").

    `key` names the part of a preference. `op` is what the user wants done with it.
    """

    topic: str
    value: str
    says: str
    key: str | None = None
    op: str = "add"  # add, remove


def clauses(text: str) -> list[str]:
    """Return the clauses of a message, aside words and closing stops taken off; a question keeps its mark."""
    parts = []
    lines = text[:_READ_CHARACTERS].replace("’", "'").splitlines()
    for part in _CLAUSE_END.split("\n".join(" ".join(line.split()) for line in lines)):
        clause = part.strip().rstrip(".!;,").strip()
        if aside := _ASIDE.match(clause):
            clause = clause[aside.end() :]
        if clause:
            parts.append(clause)
    return parts


def is_question(clause: str) -> bool:
    """Whether a clause asks for something."""
    return clause.endswith("?") or _QUESTION.match(clause) is not None


def stated(text: str) -> list[Fact]:
    """Every fact that a message states, in order."""
    return [fact for clause in clauses(text) if not is_question(clause) for fact in _facts(clause)]


def operation(fact: Fact, blocks: Sequence[Block]) -> dict[str, Any] | None:
    """Return the memory operation that stores (or removes) a fact, on the first block with a field for it."""
    for name in _candidates(fact):
        for block in blocks:
            if name in block.fields:
                return {"block": block.name, "field": name} | _change(fact, name, block)
    return None


def words(name: str) -> str:
    """Return a field's name as words: `recent_purchases` → `recent purchases`."""
    return name.replace("_", " ").replace("-", " ")


def _candidates(fact: Fact) -> list[str]:
    if fact.topic in ("like", "dislike"):
        own = ("likes", "interests") if fact.topic == "like" else ("dislikes",)
        return [*own, *TOPIC_FIELDS["preference"]]
    if fact.topic == "preference" and fact.key:
        slug = fact.key.replace(" ", "_")
        spelled = [slug, "color"] if slug == "colour" else [slug]
        direct = [form.format(s) for s in spelled for form in ("favourite_{}", "favorite_{}", "preferred_{}", "{}")]
        return [*direct, *TOPIC_FIELDS["preference"]]
    return list(TOPIC_FIELDS.get(fact.topic, (fact.topic,)))


def _change(fact: Fact, field: str, block: Block) -> dict[str, Any]:
    kind = block.types.get(field) or _guessed_type(fact, field, block.values.get(field))
    if fact.op == "remove":
        return {"op": "remove", "value": fact.value} if fact.value and kind == "array" else {"op": "remove"}
    if kind == "array":
        return {"op": "append", "value": fact.value}
    if kind == "object":
        key = fact.key or fact.value
        return {"op": "merge", "value": {key: fact.value if fact.key else f"{fact.topic}d"}}
    if kind in ("integer", "number") and re.fullmatch(r"-?\d+", fact.value):
        return {"op": "set", "value": int(fact.value)}
    return {"op": "set", "value": fact.value}


def _guessed_type(fact: Fact, field: str, current: object) -> str:
    """Guess the JSON type of a field that no tool describes, from its value or else its name."""
    if isinstance(current, (list, dict)):
        return "array" if isinstance(current, list) else "object"
    if isinstance(current, (int, float)) and not isinstance(current, bool):
        return "number"
    if current is None and (fact.topic == "purchase" or field in ("likes", "dislikes", "interests")):
        return "array"
    return "object" if current is None and field in ("preferences", "prefs") else "string"


def _facts(clause: str) -> Iterator[Fact]:
    if match := _NAME.fullmatch(clause):
        name = re.split(r",|\s+(?:and|but|from|by the way)\b", match[1])[0].strip()
        yield from _told("name", name, f"your name is {name}")
    elif match := _BOUGHT.fullmatch(clause):
        yield from _purchases(match[1], "you bought", "add")
    elif match := _RETURNED.fullmatch(clause):
        yield from _purchases(match[1], "you returned", "remove")
    elif match := _FAVOURITE.fullmatch(clause):
        key = _spelled(match[1])
        value = match[2].split(",")[0].strip()
        yield from _told("preference", value, f"your favourite {key} is {value}", key)
    elif match := _LIKES.fullmatch(clause) or _WEARS.fullmatch(clause):
        yield from _preferences(match[1])
    elif match := _DISLIKES.fullmatch(clause):
        value = _ARTICLE.sub("", match[1])
        yield from _told("dislike", value, f"you dislike {value}")
    elif match := _EMAIL.fullmatch(clause):
        value = match[1].rstrip(".,")
        yield from _told("email", value, f"your email is {value}")
    elif match := _LIVES.fullmatch(clause):
        value = match[1].strip()
        yield from _told("location", value, f"you live in {value}")
    elif match := _FORGET.fullmatch(clause):
        topic = _topic_of(match[1])
        yield Fact(topic, "", f"I have forgotten your {match[1].strip().lower()}", op="remove")
    elif match := _OTHER.fullmatch(clause):
        value = match[2].strip()
        yield from _told(_topic_of(match[1]), value, f"your {match[1].lower()} is {value}")


def _told(topic: str, value: str, says: str, key: str | None = None) -> Iterator[Fact]:
    if value and not re.match(r"(?:not|unknown|none|a secret)\b", value, re.IGNORECASE):
        yield Fact(topic, value, says, key)


def _purchases(text: str, verb: str, op: str) -> Iterator[Fact]:
    for part in _AND_ALSO.split(_trimmed(text)):
        shown = _trimmed(part)
        item = _ARTICLE.sub("", shown)
        if item and item.lower() not in _PRONOUNS:
            yield Fact("purchase", item, f"{verb} {shown}", op=op)


def _trimmed(text: str) -> str:
    """Return the text without a time or place at its end: `a red kettle last week` → `a red kettle`."""
    while (shorter := _TIME.sub("", f" {text}").strip()) != text.strip() and shorter:
        text = shorter
    return text.strip()


def _preferences(text: str) -> Iterator[Fact]:
    for part in _AND_ALSO.split(text):
        wish = re.split(r"\s+(?:over|to|rather than|instead of)\s+", part)[0].strip()
        colour = re.sub(r"^(?:the )?colou?r |\s+(?:ones?|things|colou?r)$|^in ", "", wish, flags=re.IGNORECASE).lower()
        if size := _SIZE.fullmatch(wish):
            yield Fact("preference", size[1].upper(), f"your size is {size[1].upper()}", "size")
        elif colour in COLOURS:
            yield Fact("preference", colour, f"you prefer {colour}", "colour")
        elif wish and wish.lower() not in _PRONOUNS:
            value = _ARTICLE.sub("", wish)
            yield Fact("like", value, f"you like {value}")


def _topic_of(name: str) -> str:
    """Return the topic whose fields include this name, or the name itself as a field's."""
    slug = re.sub(r"[\s-]+", "_", name.strip().lower())
    return next((topic for topic, fields in TOPIC_FIELDS.items() if slug in fields), slug)


def _spelled(key: str) -> str:
    key = key.strip().lower()
    return "colour" if key == "color" else key
