"""What the backend does in the cloud, tried once for each VO: ``--check-live``.

With ``--write`` it also creates an image of 1 KiB that only the project sees, uploads its data, and
deletes it again.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from appliance.core import clock
from appliance.core.cloud import faults, identity
from appliance.core.cloud.glance import Glance, GlanceRefusal, Image
from appliance.core.cloud.session import Cloud, Scope
from appliance.core.run import place
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding
from appliance.core.suggestion import closest
from cloudkeeper.backend import projects, properties, unknown, versions
from cloudkeeper.backend.settings import BackendSettings

_LOGIN = "POST /v3/auth/tokens, GET /v3/auth/projects"
_READ = "a token of the project, and its images"
_WRITE = "create, upload and delete an image of 1 KiB"
_FULL = frozenset({413, 507})
_SHOWN = 5


def findings(settings: BackendSettings, *, writes: bool) -> Iterator[Finding]:
    """Yield the faults of the account, and of the project of each VO."""
    access = faults.prompt(settings.access)
    cloud = Cloud(access)
    try:
        found = projects.resolve(cloud, settings.projects)
    except ApplianceError as error:
        yield faults.finding(error, access, tried=_LOGIN, otherwise="C30")
        return
    read = set[str]()
    for vo, one in found.items():
        if isinstance(one, ApplianceError):
            yield _of_mapping(faults.finding(one, access, tried=_LOGIN), vo, cloud, settings)
            continue
        project, scope = one
        tried = f"VO {vo}: {_READ}"
        try:
            faults.note_scope(scope)
            images = Glance(scope).images(owner=project.id, hidden=False)
            if project.id in read:
                continue
            read.add(project.id)
            left = list(_left_behind(images, project.id))
        except ApplianceError as error:
            yield faults.finding(error, access, tried=tried, otherwise="C34")
            continue
        if left:
            yield _orphans(left, project.name, vo, settings, tried)
        if writes:
            yield from _write(scope, f"VO {vo}: {_WRITE}")


def _left_behind(images: Iterable[Image], owner: str) -> Iterator[tuple[str, bool]]:
    """Yield the id of each image that no upload completes, and whether it has a mark of ours."""
    now = clock.now()
    for image in images:
        record = properties.recognise(image, owner=owner)
        if record is not None and versions.is_abandoned(record, now=now):
            yield record.id, True
        elif next(unknown.abandoned([image], owner=owner, now=now), None):
            yield str(image["id"]), False


def _orphans(
    left: Sequence[tuple[str, bool]], project: str, vo: str, settings: BackendSettings, tried: str
) -> Finding:
    """Return the finding for incomplete images that are older than a day."""
    names = ", ".join(identifier for identifier, _ in left[:_SHOWN])
    more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    words = [f"incomplete images in project {project}, older than a day: {names}{more}"]
    if any(is_ours for _, is_ours in left):
        again = place.command("cloudkeeper", "cloudkeeper", "sync")
        words.append(f"a sync removes its own: {again}")
    if not all(is_ours for _, is_ours in left):
        again = place.command("cloudkeeper", "cloudkeeper", "gc", "--collect-unknown", "--dry-run")
        words.append(
            f"to see those without a mark, and then remove them without --dry-run: {again}"
        )
    path, line = str(settings.mapping), _line(settings, vo)
    return Finding(path, line, vo, "; ".join(words), "C63.c", is_error=False, tried=tried)


def _of_mapping(found: Finding, vo: str, cloud: Cloud, settings: BackendSettings) -> Finding:
    """Return the finding on a VO's project, in the file that names it."""
    if not found.identifier.startswith(("C23", "C31")):
        return found
    wanted = settings.projects[vo].project
    path, line = str(settings.mapping), _line(settings, vo)
    near = closest(wanted, [project.name for project in identity.projects(cloud)])
    if found.identifier == "C31.a" and near:
        text = f"no project is called {wanted!r} for this account; did you mean {near}?"
        return replace(found, path=path, line=line, option=vo, text=text, identifier="C23.b")
    return replace(found, path=path, line=line, option=vo)


def _line(settings: BackendSettings, vo: str) -> int:
    # The JSON parser keeps no line numbers; a VO's name is quoted where its entry begins.
    with contextlib.suppress(OSError):
        before, found, _ = settings.mapping.read_text().partition(f'"{vo}"')
        return before.count("\n") + 1 if found else 0
    return 0


class _Sample:
    """The data of the image: 1 KiB."""

    is_repeatable = True

    def __len__(self) -> int:
        return 1024

    def __iter__(self) -> Iterator[bytes]:
        yield bytes(len(self))


def _write(scope: Scope, tried: str) -> Iterator[Finding]:
    glance, identifier = Glance(scope), str(uuid.uuid4())
    image = {
        "id": identifier,
        "name": "appliance check",
        "visibility": "private",
        "disk_format": "raw",
        "container_format": "bare",
    }
    try:
        glance.create(image)
    except ApplianceError as error:
        yield _refused(error, scope, tried, "C35.a")
        return
    try:
        glance.upload(identifier, _Sample())
    except ApplianceError as error:
        yield _refused(error, scope, tried, "C35.b")
    try:
        glance.delete(identifier)
    except ApplianceError as error:
        text = f"image {identifier} was created and cannot be deleted: {error}"
        yield faults.of_text(text, scope.access, tried=tried, otherwise="C35")


def _refused(error: ApplianceError, scope: Scope, tried: str, row: str) -> Finding:
    if not isinstance(error, GlanceRefusal):
        return faults.finding(error, scope.access, tried=tried, otherwise="C35")
    if error.code in _FULL:
        remedy = "raise the project's quota of images, or free space in Glance's store"
        row = "C35.b"
    else:
        remedy = scope.access.grant(f"--project {scope.project_id}")
    text = f"{error.subject}: {error.cause}; {remedy}"
    return faults.of_text(text, scope.access, tried=tried, otherwise=row)
