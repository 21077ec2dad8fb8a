"""The command ``appliance``, the interface for administrators of a host."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from appliance.core.run import cli

VERBS = {
    "configure": "configure.configure",
    "config": "config.config",
    "accounts": "accounts.accounts",
    "vo": "vo.vo",
    "migrate": "migrate.migrate",
    "export-site-yaml": "site_yaml.export",
    "import-site-yaml": "site_yaml.imports",
    "check": "check.check",
    "start": "start.start",
    "first-boot": "first_boot.first_boot",
    "motd": "motd.motd",
    "run": "run.run",
    "restart": "restart.restart",
    "status": "status.status",
    "logs": "logs.logs",
    "diff": "diff.diff",
    "schedule": "schedule.schedule",
    "flows": "flows.flows",
    "mounts": "mounts.mounts",
    "images": "images.images",
    "wait": "wait.wait",
    "bdii": "bdii.search",
    "service": "service.steps",
    "certificates": "certificates.renew",
    "firewall": "firewall.control",
    "upgrade": "upgrade.upgrade",
    "state": "state.state",
    "backup": "backup.backup",
    "restore": "restore.restore",
    "support-bundle": "support.support",
}
"""By name, the module of this package that has the ``VERB``; ``--help`` has their order."""


def program(name: str = "") -> cli.Program:
    """Return the command with one verb; with all of them unless ``name`` is a verb.

    Importing all of them takes 40 ms more, which is a third of the start.
    """
    names = [name] if name in VERBS else [*VERBS]
    modules = [importlib.import_module(f"appliance.admin.{VERBS[verb]}") for verb in names]
    return cli.Program(
        "appliance",
        "Administer the appliance of this host.",
        lambda _parser: None,
        cli.dispatch,
        verbs=[module.VERB for module in modules],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    return cli.main(program(words[0] if words else ""), argv)


if __name__ == "__main__":
    sys.exit(main())
