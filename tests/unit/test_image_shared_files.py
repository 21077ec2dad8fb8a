"""Files that several changes of a run need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cloudkeeper.frontend.shared_files import SharedFiles
from cloudkeeper.model import (
    Appliance,
    ApplianceId,
    Format,
    ImageData,
    ImageSource,
    ListId,
    Offer,
)

SOURCE = ImageSource("https://images.example.org/a", f"sha256:{'0' * 64}", 1)
OFFER = Offer(Appliance(ApplianceId("a"), ListId("list")), SOURCE)


def test_a_file_stays_while_another_source_uses_it() -> None:
    """The source that was read first expects two users; the third one has come meanwhile."""
    shared, made = SharedFiles(), list[str]()

    @contextlib.contextmanager
    def make() -> Iterator[ImageData]:
        made.append("made")
        yield ImageData("a", Format.RAW, "", 1)
        made.append("removed")

    shared.expect([OFFER, OFFER])
    with contextlib.ExitStack() as third:
        with shared.file(OFFER, make):
            third.enter_context(shared.file(OFFER, make))
        with shared.file(OFFER, make):
            pass
        assert made == ["made"]
    assert made == ["made", "removed"]
    assert not shared.is_wanted(OFFER)
