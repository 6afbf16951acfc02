"""Whatever path a model writes, the memory tool asks for nothing outside its root."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from trunkline.domain.memory_tool import COMMANDS, Call, CommandRefused, read_command, steps_of

STEPS = ["memories", "a", ".", "..", "", "%2e%2e", "%2E", "..%2f", "..\\..", "blocks", "other-user", "\u202e", "é"]
PATHS = st.one_of(
    st.lists(st.sampled_from(STEPS), max_size=6).map(lambda steps: "/" + "/".join(steps)),
    st.lists(st.sampled_from(STEPS), max_size=6).map(lambda steps: "/memories/" + "/".join(steps)),
    st.text(max_size=40).map(lambda text: "/memories/" + text),
    st.text(max_size=40),
)


class _Page:
    data: tuple[Any, ...] = ()
    next_page = None


def calls_of(command: dict[str, Any]) -> list[Call]:
    """Return what a command asks of an empty store."""
    made = []
    try:
        steps = steps_of(read_command(command))
        call = next(steps)
        while True:
            made.append(call)
            call = steps.send(_Page())
    except (CommandRefused, StopIteration):
        return made


@given(name=st.sampled_from(COMMANDS), path=PATHS, other=PATHS)
def test_no_call_names_a_way_out(name: str, path: str, other: str) -> None:
    given = {"command": name, "path": path, "file_text": "x", "old_str": "x", "new_str": "y", "insert_line": 0}
    for call in calls_of({**given, "insert_text": "z", "old_path": path, "new_path": other}):
        asked = call.arguments.get("path", call.arguments.get("path_prefix"))
        assert isinstance(asked, str)
        assert asked.startswith("/")
        assert not {".", ".."} & set(unquote(asked).replace("\\", "/").split("/")), (name, path, asked)
