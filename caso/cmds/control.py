"""`caso`: the state of accounting, and what a person may decide about it."""

from __future__ import annotations

from appliance.core.run import cli
from caso.cmds import mapping_migrate, projects, startup
from caso.commands import (
    administer,
    check,
    checkpoints,
    compare,
    gaps,
    ledger,
    offers,
    quarantine,
    reconcile,
    report,
    republish,
    shadow,
)

PROGRAM = cli.Program(
    "caso",
    "Show the state and the projects of accounting.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        check.VERB,
        checkpoints.VERB,
        gaps.VERB,
        ledger.VERB,
        offers.VERB,
        administer.VERB,
        quarantine.VERB,
        republish.VERB,
        report.VERB,
        reconcile.VERB,
        shadow.VERB,
        compare.VERB,
        # cASO has them as programs, `caso-projects` and `caso-mapping-migrate`.
        cli.Program("projects", projects.SENTENCE, startup.add_arguments, projects.show),
        cli.Program(
            "mapping-migrate",
            mapping_migrate.SENTENCE,
            mapping_migrate.add_arguments,
            mapping_migrate.migrate,
        ),
    ),
)


def main() -> int:
    """Run the program and return its exit status."""
    return cli.main(PROGRAM)
