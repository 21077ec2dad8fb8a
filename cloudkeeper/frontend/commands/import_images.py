"""``cloudkeeper import``: take images over from another manager of the cloud; no upload."""

from __future__ import annotations

import argparse

from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus
from cloudkeeper.frontend.commands import hand_over
from cloudkeeper.wire.status import Takeover

_CONDITION = """\
First switch the other manager off, or it uploads the images again, and deletes these:
for EGI's catch-all, the file of your site in EGI-Federation/fedcloud-catchall-operations must have
  images: {sync: false}
merged and deployed. cloudkeeper refuses while it sees that the manager has written within the last
six hours; it cannot see whether the manager is off."""


def _run(arguments: argparse.Namespace) -> ExitStatus:
    return hand_over.run(arguments, Takeover.IMPORT, condition=_CONDITION)


VERB = cli.Program(
    "import",
    "Take images over from EGI's catch-all, or another atrope, without an upload.",
    hand_over.add_arguments,
    _run,
)
