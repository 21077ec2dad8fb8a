"""Files of secrets that options name outside of the directories that a container sees.

``password_file = /etc/secrets/os`` means this file on the host, so it is mounted read-only at the
same path, into the one container whose configuration names it. Its own owner and mode still decide
whether the container's account can read it. A path that would hide files of the container, or that
a mount cannot have, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from appliance.admin.mounts import site_files
from appliance.core import files
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout

_CONFIGURATIONS: Mapping[str, tuple[str, ...]] = {
    "caso": ("/etc/caso/caso.conf", "/etc/caso/caso.conf.d/*.conf"),
    "ssm": ("/etc/apel/*.cfg",),
    "cloud-info": ("/etc/cloud-info-provider/*",),
    "cloudbdii": ("/etc/cloud-info-provider/*",),
    "cloudkeeper-os": (site_files.BACKEND_CONFIG,),
}
"""By service of the compose file, the files whose options can name a secret's file."""
_SEEN: Mapping[str, str] = {
    "caso": "/etc/caso/caso.conf.d",
    "ssm": "/etc/apel",
    "cloud-info": "/etc/cloud-info-provider",
    "cloudbdii": "/etc/cloud-info-provider",
    "cloudkeeper-os": "/etc/cloudkeeper/secrets",
}
"""By service, the directory that its container sees in any case."""
_OPTION = re.compile(
    r"^\s*(?:-\s+)?(?:export\s+)?[\"']?(?P<option>\w*(?:password|secret|token)_file)[\"']?"
    r"\s*[=:]\s*[\"']?(?P<path>/[^\"'#\r\n]*)",
    re.IGNORECASE,
)
_OF_THE_CONTAINER = re.compile(
    r"/(?:proc|sys|dev|run|usr|bin|sbin|lib\w*|opt/fedcloud|var/log)(?:/.*)?"
    r"|/etc/(?:ssl/certs/.*|passwd|group|nsswitch\.conf|hosts|hostname|resolv\.conf)"
)
_PLAIN = re.compile(r"(?:/[\w.@+-]+)+")
_LARGEST = 2**20  # bytes of a file of configuration


def of_service(service: str, layout: Layout) -> list[str]:
    """Return the mounts ``SOURCE:TARGET:ro`` of files of secrets that a service needs.

    A file that does not exist is left out: the program reports it.

    Raises:
        ConfigurationError: A file cannot be mounted.

    """
    problems: list[Problem] = []
    found: dict[str, Path] = {}
    for path, number, option, named in _named(service, layout):
        if _is_below(named, _SEEN[service]) or not _on_host(named, layout).is_file():
            continue
        if words := _refusal(named):
            cause = f"{named} {words}; move it into {_SEEN[service]}"
            problems.append(Problem(path, number, option, cause))
        found[named] = _on_host(named, layout)
    if problems:
        raise ConfigurationError(problems)
    return [f"{source}:{target}:ro" for target, source in sorted(found.items())]


def _named(service: str, layout: Layout) -> Iterator[tuple[Path, int, str, str]]:
    """Yield file, line, option and path of each secret that a configuration names by its file."""
    for path in _files(_CONFIGURATIONS.get(service, ()), layout):
        try:
            text = files.read_regular(path, limit=_LARGEST, follow=True).decode(errors="replace")
        except (OSError, ValueError):  # the program reports it
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if match := _OPTION.match(line):
                yield path, number, match["option"], match["path"].strip()


def _files(names: Sequence[str], layout: Layout) -> Iterator[Path]:
    for name in names:
        if name == site_files.BACKEND_CONFIG:
            yield layout.path(site_files.choose(site_files.variables(layout), layout)[name])
        elif name.endswith(("*", "*.conf", "*.cfg")):
            folder, _, pattern = name.rpartition("/")
            yield from sorted(one for one in layout.path(folder).glob(pattern) if one.is_file())
        else:
            yield layout.path(name)


def _on_host(named: str, layout: Layout) -> Path:
    """Return the file that an option names: below the root of a site, or with the root in it."""
    return Path(named) if _is_below(named, str(layout.root)) else layout.path(named)


def _is_below(name: str, directory: str) -> bool:
    return name.startswith(f"{directory.rstrip('/')}/")


def _refusal(named: str) -> str:
    if not _PLAIN.fullmatch(named) or {".", ".."} & set(named.split("/")):
        return "cannot be mounted: its path has '.' or '..' as a part, or unusual characters"
    if _OF_THE_CONTAINER.fullmatch(named):
        return "is not mounted: it would hide files of the container"
    return ""
