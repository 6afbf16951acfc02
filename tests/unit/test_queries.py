import pytest

from trunkline.store.queries import parse, queries


def test_statements_are_found_by_name_without_their_comments() -> None:
    text = """-- What this file is for.

-- name: one
-- Say one.
select 1;

-- name: two
-- Say two.
-- At length.
select $1
  -- in the middle
  from things;
"""
    assert parse(text, "x.sql") == {"one": "select 1", "two": "select $1\n  from things"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("select 1;", "before the first"),
        ("-- name: one\nselect 1;", "one has no line"),
        ("-- name: one\n-- Say one.\n", "one has no statement"),
        ("-- name: one\n-- Say.\nselect 1;\n-- name: one\n-- Say.\nselect 2;", "two statements are named one"),
    ],
)
def test_a_file_that_breaks_the_form_is_refused_by_name(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"x.sql: .*{fault}"):
        parse(text, "x.sql")


def test_the_stores_own_statements_load() -> None:
    assert "set_tenant" in queries("pool")
