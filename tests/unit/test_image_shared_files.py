"""Files that several changes of a run need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cloudkeeper.frontend.shared_files import SharedFiles, file_key
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


@pytest.mark.parametrize(
    "uri",
    [
        "https://slow.example.net/a",
        "http://images.example.org/a",
        "https://images.example.org:8443/a",
        "https://token@images.example.org/a",
        "https://images.example.org/a?token=t",
    ],
)
def test_a_digest_gives_no_file_of_another_server_or_account(uri: str) -> None:
    """A list got the image that only another one could fetch, or kept it waiting for hours."""
    other = replace(OFFER, source=replace(SOURCE, uri=uri))
    assert file_key(other) != file_key(OFFER)
    path = replace(OFFER, source=replace(SOURCE, uri="https://images.example.org/b"))
    assert file_key(path) == file_key(OFFER)


def test_a_list_gets_no_file_of_a_registry_s_account() -> None:
    def of(list_id: str, vo: str, compression: str = "") -> str:
        appliance = replace(OFFER.appliance, list_id=ListId(list_id), vo=vo)
        return file_key(Offer(appliance, replace(SOURCE, compression=compression)))

    registry = of("images.example.org/project/ops", "ops")
    assert registry == of("images.example.org/project/biomed", "biomed")
    others = [of("list", "ops"), of("images.example.org/other/ops", "ops")]
    others.append(of("images.example.org/project/biomed", "biomed", "gzip"))
    assert registry not in others
