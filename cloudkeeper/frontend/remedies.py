"""Commands that messages name as remedies, as an administrator of this host can run them."""

from __future__ import annotations

from appliance.core.run import place


def command(*words: str) -> str:
    """Return the command line of a verb of `cloudkeeper` with its arguments."""
    return place.command("cloudkeeper", "cloudkeeper", *words)
