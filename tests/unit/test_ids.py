import time
from uuid import UUID

import pytest

from trunkline.domain import ids
from trunkline.errors import NotFound


def test_an_id_is_a_uuid_of_version_7_that_tells_when_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    uuid = ids.new()
    after = time.time_ns() // 1_000_000
    assert uuid.version == 7
    assert uuid.variant == "specified in RFC 4122"
    assert before <= uuid.int >> 80 <= after


def test_ids_sort_in_the_order_they_were_made() -> None:
    made = []
    for _ in range(50):
        made.append(ids.new())
        time.sleep(0.00001)
    assert made == sorted(made)
    assert len(set(made)) == 50


def test_an_id_comes_back_from_its_wire_form() -> None:
    uuid = UUID("0193f0a4-c1b2-7c55-a1c8-b4c0a1b2c3d4")
    assert ids.encode("sesn", uuid) == "sesn_0193f0a4c1b27c55a1c8b4c0a1b2c3d4"
    assert ids.decode("sesn", "sesn_0193f0a4c1b27c55a1c8b4c0a1b2c3d4") == uuid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sesn",
        "sesn_",
        "sesn_0193f0a4",
        "agent_0193f0a4c1b27c55a1c8b4c0a1b2c3d4",
        "sesn_0193F0A4C1B27C55A1C8B4C0A1B2C3D4",
        "sesn_0193f0a4c1b27c55a1c8b4c0a1b2c3d4\n",
        "sesn_0193f0a4-c1b2-7c55-a1c8-b4c0a1b2c3d4",
        "sesn_" + "٣" * 32,
        "sesn_" + "0" * 10_000,
    ],
)
def test_anything_else_is_not_found_with_what_was_expected(text: str) -> None:
    with pytest.raises(NotFound, match="id of a session: expected 'sesn_' and 32 lowercase") as caught:
        ids.decode("sesn", text)
    assert len(caught.value.message) < 250
