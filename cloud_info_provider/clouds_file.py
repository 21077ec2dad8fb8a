"""``clouds.yaml``, in which OpenStack's clients keep accounts by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from appliance.core.config import document, yaml_file
from appliance.core.config.document import Setting
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout
from appliance.core.suggestion import did_you_mean

VARIABLE = "OS_CLIENT_CONFIG_FILE"
_OURS = "/etc/cloud-info-provider/clouds.yaml"
_CLOUDS = "clouds"
# Options of a cloud beside its ``auth`` that have the meaning of an option of the account here.
_OPTIONS = ("auth_type", "region_name", "interface", "cacert", "cert", "key")


def read(name: str, layout: Layout) -> dict[str, Setting]:
    """Return the options of a cloud, by their names in the account.

    Secrets may be in ``secure.yaml`` beside the file.

    Raises:
        ConfigurationError: there is no such file, or it does not have the cloud.

    """
    path = _find(layout)
    tree = yaml_file.parse(path, document.read_text(path))
    secure = path.with_name("secure.yaml")
    if document.may_exist(secure):
        tree.update(yaml_file.parse(secure, document.read_text(secure)))
    known = tree.children.get(_CLOUDS, {})
    if name not in known:
        hint = did_you_mean(name, known, otherwise="correct the name")
        raise ConfigurationError([Problem(path, 0, _CLOUDS, f"has no cloud {name!r}; {hint}")])
    options = tree.sections.get(f"{_CLOUDS}.{name}", {})
    if "profile" in options or "cloud" in options:
        line = options.get("profile", options.get("cloud", known[name])).line
        words = "profiles of vendors are not read here; write auth_url and auth_type into the cloud"
        raise ConfigurationError([Problem(path, line, f"{_CLOUDS}.{name}.profile", words)])
    found = {option: options[option] for option in _OPTIONS if option in options}
    if (verify := options.get("verify")) and verify.text.lower() in ("false", "no", "off", "0"):
        found["insecure"] = Setting("true", verify.path, verify.line)
    found |= tree.sections.get(f"{_CLOUDS}.{name}.auth", {})
    return {option.replace("tenant", "project"): entry for option, entry in found.items()}


def _find(layout: Layout) -> Path:
    candidates = [*_candidates(layout)]
    if found := document.first_existing(candidates):
        return found[0]
    words = f"does not exist; write it, or name another file in {VARIABLE}"
    raise ConfigurationError([Problem(candidates[0], 0, "", words)])


def _candidates(layout: Layout) -> Iterator[Path]:
    if named := os.environ.get(VARIABLE):
        yield Path(named)
        return
    yield layout.path(_OURS)
    yield Path("clouds.yaml").absolute()
    yield Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / (
        "openstack/clouds.yaml"
    )
    yield layout.path("/etc/openstack/clouds.yaml")
