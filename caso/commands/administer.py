"""`caso administer`: send an administrator's requests to the cloud, for who has no client of it.

`appliance vo` runs it in its container. Everything comes by standard input, one JSON object a line,
so that no secret is in a file, an argument or the environment. The first line is the login, each
further one a request; each gets one line of answer, whose text is what the service sent.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from appliance.core.run import cli, log
from appliance.core.run.errors import (
    AccessDenied,
    ApplianceError,
    ExitStatus,
    UsageError,
)

if TYPE_CHECKING:
    from appliance.core.cloud.session import Cloud, Scope

_LONGEST_LINE = 1 << 22
_PATIENCE = timedelta(seconds=60)
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_SERVICES = frozenset({"identity", "compute", "block-storage", "image"})


def _run(arguments: argparse.Namespace) -> ExitStatus:
    """Answer the lines of standard input until it ends."""
    cli.configure_log(arguments)
    if arguments.check_config:
        return ExitStatus.DONE
    lines = _lines()
    try:
        scope = _login(next(lines, {}))
    except ApplianceError as error:
        _answer(_failure(error))
        return ExitStatus.NOTHING
    _answer({"host": scope.access.auth_url, "roles": list(scope.roles)})
    for line in lines:
        try:
            _answer(_sent(scope, line))
        except ApplianceError as error:
            _answer(_failure(error))
    return ExitStatus.DONE


def _lines() -> Iterator[dict[str, Any]]:
    """Yield the objects of standard input.

    Raises:
        UsageError: A line is no object, or too long.

    """
    while line := sys.stdin.buffer.readline(_LONGEST_LINE):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UsageError("standard input", "is not one JSON object a line", "appliance vo")
        yield found


def _answer(content: Mapping[str, object]) -> None:
    print(json.dumps(content), flush=True)


def _failure(error: ApplianceError) -> dict[str, object]:
    cause = f"{error.cause}; {error.remedy}" if error.remedy else error.cause
    failure = {
        "is_denied": isinstance(error, AccessDenied),
        "subject": log.redact(error.subject),
        "cause": log.redact(cause),
    }
    return {"failure": failure}


def _login(wanted: Mapping[str, Any]) -> Scope:
    """Log in, to the system or to the project that the login names."""
    from appliance.core.cloud import login  # noqa: PLC0415  loads the OpenStack clients
    from appliance.core.cloud.session import Cloud  # noqa: PLC0415

    options = {str(name): str(text) for name, text in wanted.get("options", {}).items()}
    kind = str(wanted.get("auth_type", ""))
    try:
        for option in login.options(kind):
            if option.is_secret:
                log.hide(options.get(option.name))
    except LookupError as error:
        raise UsageError("auth_type", str(error)) from None
    url = str(wanted.get("auth_url", ""))
    given = {name: text for name, text in options.items() if name not in login.SCOPE}
    if fault := login.fault(kind, {**given, "auth_url": url}):
        raise UsageError("the administrator's login", fault)
    access = login.Access(
        auth_type=kind,
        auth_url=url,
        options={**given, "auth_url": url},
        region=str(wanted["region"]) if wanted.get("region") else None,
        verify=_authorities(str(wanted.get("authorities", ""))),
        timeout=_PATIENCE,
        interface=str(wanted.get("interface") or "public"),
        section="clouds",
    )
    return _scoped(Cloud(access), options)


def _authorities(text: str) -> bool | str:
    """Return the path of a file in memory with the authorities; True for those of the system."""
    if not text:
        return True
    # It stays open as long as the process, which reads it for each connection.
    descriptor = os.memfd_create("authorities")
    os.write(descriptor, text.encode())
    return f"/proc/self/fd/{descriptor}"


def _scoped(cloud: Cloud, options: Mapping[str, str]) -> Scope:
    """Return the scope that the options name: the system, or a project by id or name."""
    if options.get("system_scope"):
        if cloud.system is None:
            raise AccessDenied(cloud.host, "the account has no role on the system")
        return cloud.system
    if cloud.access.is_bound:
        return cloud.unscoped
    from appliance.core.cloud import identity  # noqa: PLC0415
    from appliance.core.cloud.project import by_name_or_id  # noqa: PLC0415

    wanted = options.get("project_id") or options.get("project_name") or ""
    if not wanted:
        raise UsageError("the administrator's login", "names neither a project nor the system")
    found = by_name_or_id(identity.projects(cloud), wanted)
    domain = options.get("project_domain_name", "")
    if len(found) > 1 and domain:
        found = [one for one in found if cloud.project(one.id).project_domain_name == domain]
    if len(found) != 1:
        cause = f"{len(found)} projects of this account are called {wanted!r}"
        raise AccessDenied(cloud.host, cause, "name the project by its id")
    return cloud.project(found[0].id)


def _sent(scope: Scope, line: Mapping[str, Any]) -> dict[str, object]:
    """Send a request; return status and text of its answer."""
    from appliance.core.cloud.session import understood  # noqa: PLC0415  loads the clients

    service, method, path = (str(line.get(name, "")) for name in ("service", "method", "path"))
    if method not in _METHODS or service not in _SERVICES or not path.startswith("/"):
        raise UsageError("request", f"{method} {service}{path} is not one of `appliance vo`")
    adapter = scope.identity if service == "identity" else scope.service(service)
    body = line.get("body")
    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    data = None if body is None else str(body).encode()
    with understood(scope.access.auth_url, service):
        answer = adapter.request(path, method, raise_exc=False, headers=headers, data=data)
    return {"status": answer.status_code, "text": answer.text}


VERB = cli.Program(
    "administer",
    "Send the requests on standard input to the cloud; `appliance vo` uses it.",
    lambda _parser: None,
    _run,
)
