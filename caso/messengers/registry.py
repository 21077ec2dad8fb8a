"""The messengers, and their names in all releases of cASO."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from appliance.core.config.settings import Settings
from appliance.core.run.layout import Layout
from caso.messengers import noop, ssm
from caso.messengers.messenger import Messenger

Reader = Callable[[Settings, Layout, str], Messenger]
"""Reads a messenger's options; takes the name by which it is configured."""

MESSENGERS: Mapping[str, Reader] = {
    **dict.fromkeys(noop.NAMES, noop.read),
    **dict.fromkeys(ssm.NAMES, ssm.read),
}
