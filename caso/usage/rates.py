"""A file of rates: what an hour of use costs, in credits or whatever the site counts.

    [rates]                 for all VOs
    unit = credits
    cpu_hour = 1            of each core
    server_hour = 0.1
    volume_hour = 0
    accelerator_hour = 20
    address = 5             of each address and month

    [biomed]                a VO with other rates; what it leaves out is as above
    cpu_hour = 0.5

A rate that nobody sets is 0.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from appliance.core.config import document, ini
from appliance.core.config.settings import Settings

logger = logging.getLogger(__name__)

_ALL = "rates"
_HOUR = 3600
NAMES = ("cpu_hour", "server_hour", "volume_hour", "accelerator_hour", "address")
_OF_KINDS = {"cloud": "server_hour", "storage": "volume_hour", "accelerator": "accelerator_hour"}


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of a site."""

    unit: str
    general: Mapping[str, Decimal]
    of_vos: Mapping[str, Mapping[str, Decimal]]

    def cost(self, kind: str, vo: str, amount: int, cpu: int) -> Decimal:
        """Return what a use costs, from seconds; of addresses, from their number."""
        rates = self.of_vos.get(vo, self.general)
        if kind == "ip":
            return amount * rates["address"]
        wall = amount * rates[_OF_KINDS[kind]] if kind in _OF_KINDS else Decimal()
        return (wall + cpu * rates["cpu_hour"]) / _HOUR


def read(path: Path) -> Rates:
    """Read a file.

    Raises:
        ConfigurationError: it has faults; all of them are listed.

    """
    found = document.read([path], ini.parse)
    settings = Settings(found)
    unit = settings.text(_ALL, "unit", default="credits")
    general = {name: _number(settings, _ALL, name, Decimal()) for name in NAMES}
    if not any(general.values()) and set(found.sections) <= {_ALL}:
        settings.error(_ALL, "", f"no rate is set; write one of {', '.join(NAMES)}")
    of_vos = {
        vo: {name: _number(settings, vo, name, general[name]) for name in NAMES}
        for vo in found.sections
        if vo != _ALL
    }
    for warning in settings.finish():
        logger.warning("%s", warning)
    return Rates(unit, general, of_vos)


def _number(settings: Settings, section: str, option: str, default: Decimal) -> Decimal:
    text = settings.text(section, option)
    if not text:
        return default
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or number < 0:
        settings.error(section, option, f"{text!r} is not a rate; write a number like 0.5")
        return default
    return number
