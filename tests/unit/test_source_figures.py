"""The figures that a sync leaves for `appliance status`: images of each source, and whose."""

from appliance.core.run.record import RunRecord
from cloudkeeper.frontend.commands import sync_output
from cloudkeeper.frontend.sync_report import ChangeOutcome, ComparedList, SyncReport
from cloudkeeper.model import (
    HOLDER_KEY,
    Appliance,
    ApplianceId,
    Create,
    ImageSource,
    ListId,
    Offer,
    Plan,
    Remove,
)


def image(name: str, **attributes: str) -> Appliance:
    return Appliance(ApplianceId(name), ListId("list"), vo="vo", attributes=attributes)


def test_images_are_counted_by_source_as_the_run_leaves_them() -> None:
    """Three were there, one of another manager; one was added, one removed, one failed."""
    held = [image("a"), image("b"), image("c", **{HOLDER_KEY: "atrope"})]
    source = ImageSource("https://images.example.org/x", "sha512:00", None)
    added, failed = (Create(Offer(image(name), source)) for name in ("d", "e"))
    removed = Remove(held[0], "left the list")
    report = SyncReport()
    report.compared = [
        ComparedList("registry.egi.eu", "vo", Plan(ListId("1"), (added, failed, removed)), held),
        ComparedList("registry.egi.eu", "other", Plan(ListId("2")), [image("f")]),
        ComparedList("lists.example.org", "vo", Plan(ListId("3")), []),
    ]
    report.outcomes = [
        ChangeOutcome(added, "vo"),
        ChangeOutcome(failed, "vo", "no space"),
        ChangeOutcome(removed, "vo"),
    ]
    record = RunRecord("cloudkeeper")
    sync_output.record(report, record)
    assert record.parts["source"] == {
        "registry.egi.eu": {"images": 4, "images_of_others": 1},
        "lists.example.org": {"images": 0, "images_of_others": 0},
    }
