"""``cloudkeeper release``: give images back to the manager that they were taken over from."""

from __future__ import annotations

import argparse

from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus
from cloudkeeper.frontend.commands import hand_over
from cloudkeeper.wire.status import Takeover

_CONDITION = """\
The images become those of the other manager again; cloudkeeper changes none of them from then on.
They get no updates until it runs: for EGI's catch-all, the file of your site in
EGI-Federation/fedcloud-catchall-operations must have images: {sync: true}, merged and deployed."""


def _run(arguments: argparse.Namespace) -> ExitStatus:
    return hand_over.run(arguments, Takeover.RELEASE, condition=_CONDITION)


VERB = cli.Program(
    "release",
    "Give images that were taken over back to their manager, without moving data.",
    hand_over.add_arguments,
    _run,
)
