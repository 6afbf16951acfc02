from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import InvalidRequest
from trunkline.memory.paths import block_name, check_path, check_prefix, reserved


@given(st.text(max_size=40) | st.from_regex(re.compile(r"(/[a-zü.]{0,3}){1,22}", re.ASCII), fullmatch=True))
def test_what_passes_obeys_every_rule(path: str) -> None:
    try:
        check_path(path)
    except InvalidRequest:
        return
    segments = path.split("/")
    assert segments[0] == ""
    assert 2 <= len(segments) <= 21
    assert not {"", ".", ".."} & set(segments[1:])
    assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & {unicodedata.category(character) for character in path}
    assert unicodedata.normalize("NFC", path) == path
    assert len(path.encode()) <= 1024


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a", "must begin with /"),
        ("/a//b", "has an empty segment"),
        ("/a/", "no / at the end"),
        ("/a/../b", "write the path in full"),
        ("/a\0b", "U+0000"),
        ("/a\u200bb", "U+200B"),
        ("/\ud800", "U+D800"),
        ("/e\u0301", "Normalization Form C"),
        ("/" + "a" * 10_000_000, "longer than 1024 bytes"),
        ("/a" * 21, "has 21"),
    ],
)
def test_a_refused_path_says_which_rule(path: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_path(path)
    assert words in caught.value.message
    assert len(caught.value.message) < 300


def test_a_prefix_ends_in_a_slash() -> None:
    assert check_prefix("/") == "/"
    assert check_prefix("/notes/") == "/notes/"
    for bad in ("", "notes/", "/notes", "//", "/a/../"):
        with pytest.raises(InvalidRequest):
            check_prefix(bad)


def test_what_belongs_to_blocks() -> None:
    assert block_name("/blocks/customer") == "customer"
    assert block_name("/blocks/a/b") is None
    assert block_name("/notes") is None
    assert [path for path in ("/blocks", "/blocks/a/b", "/blocksy", "/x/blocks/a") if reserved(path)] == [
        "/blocks",
        "/blocks/a/b",
    ]
