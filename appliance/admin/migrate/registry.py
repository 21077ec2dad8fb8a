"""The forms of files that a migration reads: each is a file of ``forms``, and a line here.

A form plans texts in a `Workspace`, with notes and findings. Later forms see what earlier ones have
planned, so the maps of VOs come last.
"""

from __future__ import annotations

from collections.abc import Callable

from appliance.admin.migrate.forms import (
    atrope,
    caso,
    catch_all,
    cloud_info,
    cloudkeeper,
    mappings,
    sender,
)
from appliance.admin.migrate.workspace import Workspace

FORMS: tuple[Callable[[Workspace], None], ...] = (
    caso.convert,
    sender.convert,
    cloud_info.convert,
    cloudkeeper.convert,
    atrope.convert,
    catch_all.convert,
    mappings.convert,
)
