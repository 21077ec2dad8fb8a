"""The command ``appliance``, the interface for administrators of a host."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from appliance.admin.bdii import search as bdii
from appliance.admin.certificates import renew as certificates
from appliance.admin.check import offline as check
from appliance.admin.configure import configure
from appliance.admin.diff import information as diff
from appliance.admin.firewall import control as firewall
from appliance.admin.flows import flows
from appliance.admin.images import images
from appliance.admin.logs import logs
from appliance.admin.mounts import mounts
from appliance.admin.restart import restart
from appliance.admin.run import run
from appliance.admin.schedule import schedule
from appliance.admin.service import steps as service
from appliance.admin.start import start
from appliance.admin.status import status
from appliance.admin.wait import wait
from appliance.core.run import cli

PROGRAM = cli.Program(
    "appliance",
    "Administer the appliance of this host.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        configure.VERB,
        check.VERB,
        start.VERB,
        run.VERB,
        restart.VERB,
        status.VERB,
        logs.VERB,
        diff.VERB,
        schedule.VERB,
        flows.VERB,
        mounts.VERB,
        images.VERB,
        wait.VERB,
        bdii.VERB,
        service.VERB,
        certificates.VERB,
        firewall.VERB,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.main(PROGRAM, argv)


if __name__ == "__main__":
    sys.exit(main())
