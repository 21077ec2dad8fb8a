"""Commands that messages name as remedies, as an administrator of this host can run them."""

from __future__ import annotations

import os
import shlex

from appliance.core.run import place

NATIVE = "FEDCLOUD_NATIVE"
"""Variable of programs that `appliance run` starts without containers."""


def command(*words: str) -> str:
    """Return the command line of a verb of `cloudkeeper` with its arguments."""
    is_job = place.is_container() or NATIVE in os.environ
    program = "appliance run cloudkeeper --" if is_job else "cloudkeeper"
    return f"{program} {shlex.join(words)}"
