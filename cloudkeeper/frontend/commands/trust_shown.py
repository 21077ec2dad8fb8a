"""What ``cloudkeeper trust`` shows: pinned lists and tags, held tags, and refused images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from appliance.core.run import output
from cloudkeeper.frontend.memory import AcceptedList, Memory
from cloudkeeper.frontend.refused import RefusedImages
from cloudkeeper.frontend.registry.tags import TagHistory
from cloudkeeper.frontend.remedies import command
from cloudkeeper.frontend.settings import FrontendSettings


def show(configured: FrontendSettings, state: Path, *, as_json: bool) -> None:
    """Print what is remembered in the directory ``state``.

    Raises:
        LocalFailure: it cannot be read.

    """
    lists = Memory(state / "lists.json").entries
    history = TagHistory(state / "tags.json")
    refused = RefusedImages(state / "refused.json", configured.formats)
    if as_json:
        output.document(
            {
                "lists": [asdict(entry) for entry in lists],
                "tags": list(_tags(history)),
                "refused": [
                    {"image": key, "reason": reason} for key, reason in refused.reasons.items()
                ],
            }
        )
        return
    for entry in lists:
        _print_list(entry)
    project = ""
    for tag in _tags(history):
        name = f"{tag['registry']}/{str(tag['tag']).partition('/')[0]}"
        if name != project:
            output.line(name)
            project = name
        _print_tag(tag)
    if refused.reasons:
        output.line("images that were refused, and are not fetched again")
    for key, reason in refused.reasons.items():
        output.line(f"  {key}: {reason}")
        output.line(f"    to fetch it again: {command('trust', '--forget', key.split()[0])}")
    if not (lists or history.hosts or history.pins or refused.reasons):
        output.line("nothing is pinned yet: the first sync pins what it accepts")


def _print_list(entry: AcceptedList) -> None:
    output.line(entry.url)
    none = "none yet; only the endorser is pinned"
    rows = [("  list", entry.list_id or none)]
    if entry.list_id:
        rows += [("  VO", entry.vo), ("  created", entry.created)]
    rows += [("  endorser", entry.dn), ("", f"of {entry.ca}")]
    output.table(rows)


def _print_tag(tag: dict[str, object]) -> None:
    since = f" since {str(tag['since'])[:16].replace('T', ' ')}Z" if tag["since"] else ""
    output.line(f"  {tag['tag']}  {tag['digest'] or 'none yet'}{since}")
    if tag["pinned"]:
        release = command("trust", "--forget", f"{tag['registry']}/{tag['tag']}")
        output.line(f"    pinned: {tag['pinned']}; to release it: {release}")
    if tag["held"]:
        accept = command("trust", f"{tag['registry']}/{tag['tag']}")
        output.line(f"    held: it went back to {tag['held']}; to accept that: {accept}")


def _tags(history: TagHistory) -> Iterator[dict[str, object]]:
    for host in sorted(history.hosts.keys() | history.pins.keys()):
        known, pinned = history.hosts.get(host, {}), history.pins.get(host, {})
        for reference in sorted(known.keys() | pinned.keys()):
            digests = known.get(reference, [])
            yield {
                "registry": host,
                "tag": reference,
                "digest": digests[-1] if digests else None,
                "pinned": pinned.get(reference),
                "earlier": digests[:-1],
                "since": history.since(host, reference),
                "held": history.held(host, reference),
            }
