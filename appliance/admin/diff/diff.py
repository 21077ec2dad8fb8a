"""``appliance diff``: what the next runs would change, or what others serve of this site."""

from __future__ import annotations

from appliance.admin.diff import information, next_runs
from appliance.core.run import cli

VERB = cli.Program(
    "diff",
    "Print what the next run of each job would change.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(next_runs.VERB, information.VERB),
    default_verb=next_runs.VERB.name,
)
