"""One run of a frontend, from PreAction to PostAction.

A run reads the images of all projects once, at its beginning, and repairs those of killed runs.
From then on every change goes through the run, which keeps its records up to date, its figures,
and the limit of its removals. Its record is written at the end, however the run ends.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from appliance.core import causes
from appliance.core.cloud.glance import Glance
from appliance.core.cloud.session import Cloud, Scope
from appliance.core.run.errors import AccessDenied, ApplianceError, LocalFailure, Unavailable
from appliance.core.run.record import recorded
from cloudkeeper.backend import misplaced, projects, sharing, unknown
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.images import ProjectImages
from cloudkeeper.backend.misplaced import FormerProjects, ProjectMemory
from cloudkeeper.backend.others import HeldImage, Holding
from cloudkeeper.backend.ownership import Ownership
from cloudkeeper.backend.properties import ApplianceKey, ImageRecord
from cloudkeeper.backend.removals import RunRemovals
from cloudkeeper.backend.settings import BackendSettings
from cloudkeeper.backend.shares import SharedImages
from cloudkeeper.backend.tally import RunTally
from cloudkeeper.model import Appliance, ApplianceId, ListId
from cloudkeeper.wire.status import CallStatus

logger = logging.getLogger(__name__)


class Run:
    """The images of all projects as they were when the run began, updated by its changes.

    A project that cannot be reached affects the images of its VOs only. A run that is
    ``is_read_only`` repairs nothing and writes no record: it serves a frontend that only asks.

    Raises:
        ApplianceError: no project can be reached.

    """

    def __init__(
        self,
        settings: BackendSettings,
        ownership: Ownership,
        removals: RunRemovals,
        *,
        is_read_only: bool = False,
    ) -> None:
        self._settings = settings
        self._ownership = ownership
        self.is_read_only = is_read_only
        self.is_partial = False
        """Whether the run is about a part of the images; the others then stay as they are."""
        self._by_vo: dict[str, ProjectImages | ApplianceError] = {}
        self._doors: dict[str, Glance] = {}
        self._former: list[ProjectImages] = []
        self._holders: frozenset[str] = frozenset()
        self._removals = removals
        with contextlib.ExitStack() as stack:
            record = recorded("cloudkeeper-os", None if is_read_only else settings.runs)
            self.tally = RunTally(stack.enter_context(record))
            self.shares = SharedImages(
                settings.sharing == "share", ownership, self.tally, self._by_vo
            )
            try:
                self._open()
            except ApplianceError as error:  # the call that begins the run logs bugs only
                logger.error("%s", error)  # noqa: TRY400  one clear line
                raise
            # The record stays open until the call that ends the run, often in another thread.
            self._recording = stack.pop_all()

    def images(self, vo: str) -> ProjectImages:
        """Return the images in the project of a VO.

        Raises:
            ApplianceError: the VO has no project, or the project cannot be reached.

        """
        found = self._by_vo.get(vo)
        if found is None:
            raise Failed(
                f"VO {vo}",
                "is mapped to no project",
                f"to accept its images, add it to {self._settings.mapping}",
                status=CallStatus.ERROR,
            )
        if isinstance(found, ApplianceError):
            raise found
        return found

    def projects(self) -> Iterator[ProjectImages]:
        """Yield the images of every project that can be reached, once each.

        Those of projects that were a VO's earlier come last.
        """
        seen = set()
        for images in (*self._by_vo.values(), *self._former):
            if isinstance(images, ProjectImages) and images.project_id not in seen:
                seen.add(images.project_id)
                yield images

    def has(self, project_id: str) -> bool:
        """Check whether a project is mapped to a VO and can be reached."""
        return project_id in self._doors

    @property
    def owners(self) -> dict[str, str]:
        """Return the id of each VO's project, as far as it can be reached."""
        return {
            vo: found.project_id
            for vo, found in self._by_vo.items()
            if isinstance(found, ProjectImages)
        }

    def offered(self, list_id: ListId | None = None) -> Iterator[ImageRecord]:
        """Yield the images that are offered to each VO in the VO's own project; of one list or all.

        An image in another project helps no user of the VO, so the frontend must add it again.
        Of two versions the newest comes last, which is the one that counts for a frontend.
        """
        stated = self.shares.stated()
        if list_id is not None:
            stated = [found for found in stated if found[2].list_id == list_id]
        for images in self.projects():
            shared = [one.as_own for one in self.shares.used(images, stated)]
            found = [*images.offered(list_id), *shared]
            for record in sorted(found, key=lambda one: (one.created, one.id)):
                is_wanted = list_id in (None, record.key.list_id)
                if is_wanted and self._by_vo.get(record.key.vo) is images:
                    yield record

    def held(
        self, images: ProjectImages, list_id: ListId, *, vo: str, known: Iterable[ApplianceId]
    ) -> Iterator[HeldImage]:
        """Yield the images of a list that others keep, and that are therefore not uploaded.

        The VO's own image goes before (``known``), and each is yielded once. An image whose holder
        nobody knows is reported.
        """
        seen = set(known)
        for held in images.held(list_id, vo=vo, owners=self.owners):
            subject = f"project {images.name}: image {held.image['id']}"
            if held.reference in seen:
                words = "%s is a second one of %s: clients that select by name fail; delete one"
                logger.warning(words, subject, held.reference)
                continue
            seen.add(held.reference)
            if held.holding is Holding.NAMESAKE:
                self.tally.fail(
                    f"{subject}: has the name of {held.reference} and no tag of a manager, so "
                    f"{held.reference} is not uploaded for VO {vo}: clients that select by name "
                    "would fail; rename or delete it"
                )
            self.tally.note("images_held_by_others", f"VO {vo}: {held.reference}: {held.holder}")
            yield held

    def withdraw(
        self, list_id: ListId, wanted: ApplianceKey | None = None, *, hides: bool = False
    ) -> None:
        """Remove the images of a list from all projects, or only one of its appliances.

        With ``hides``, they are hidden from users instead, which counts as their removal.

        Raises:
            ApplianceError: the run would remove too many images, or some could not be removed.

        """
        searched = [self.images(wanted.vo)] if wanted else self.projects()
        found = [
            (images, key)
            for images in searched
            for key in self.shares.keys(images, list_id)
            if wanted in (None, key)
        ]
        names = [f"{key.vo} {key.identifier}" for _, key in found]
        self._removals.allow(list_id, names)
        failures: list[ApplianceError] = []
        for images, key in found:
            try:
                self.shares.withdraw(images, key, hides=hides)
            except ApplianceError as error:  # the others are removed nevertheless
                failures.append(error)
        for failure in failures[1:]:
            self.tally.fail(failure)
        if failures:
            raise failures[0]

    def withdraw_expired(self, *, at: datetime) -> None:
        """Remove the appliances that have expired, within the limit of removals.

        Raises:
            ApplianceError: some could not be removed.

        """
        failures: list[ApplianceError] = []
        for record in list(self.offered()):
            if record.appliance.is_expired(at=at):
                try:
                    self.withdraw(record.key.list_id, record.key)
                except ApplianceError as error:  # the others are removed nevertheless
                    failures.append(error)
        for failure in failures[1:]:
            self.tally.fail(failure)
        if failures:
            raise failures[0]

    def unknown(self) -> Iterator[Appliance]:
        """Yield the incomplete records of all projects that nobody has marked."""
        for images in self.projects():
            for image in images.unknown:
                yield unknown.as_appliance(image, project=images.name)

    def collect_unknown(self, image_id: str) -> None:
        """Delete an incomplete record that nobody has marked; one that is gone already is done.

        Raises:
            ApplianceError: the configuration does not allow it, or Glance refuses it.

        """
        self._removals.check_confirmed()
        for images in self.projects():
            if any(image["id"] == image_id for image in images.unknown):
                images.collect_unknown(image_id)
                return
        raise Failed(
            f"image {image_id}",
            "is not an incomplete image that nobody has marked",
            status=CallStatus.APPLIANCE_NOT_FOUND,
        )

    def finish(self) -> None:
        """Clean up and write the record, which shows a bug as well."""
        try:
            self._clean_up()
        except Exception as error:
            self.tally.fail(f"bug in cloudkeeper-os: {type(error).__name__}: {error}")
            raise
        finally:
            self.close()

    def _clean_up(self) -> None:
        self._settle_misplaced()
        for images in self.projects():
            try:
                images.sweep()
            except Exception as error:  # one project must not affect the others
                logger.exception("project %s", images.name)
                self._note_nonsense(images.name, error)
            held = sum(map(sharing.is_held, images.active()))
            self.tally.count("images", len(images.offered()) + held)

    def abandon(self, reason: str) -> None:
        """Write the record of a run that the frontend has not ended."""
        self.tally.fail(reason)
        self.close()

    def _note_nonsense(self, name: str, error: Exception) -> Failed:
        failure = Failed(
            f"project {name}",
            f"cannot read an answer of the cloud: {causes.of_answer(error)}",
            status=CallStatus.RESOURCE_RETRIEVAL,
        )
        self.tally.fail(failure)
        return failure

    def close(self) -> None:
        """Write the record of the run."""
        self._recording.close()

    def _open(self) -> None:
        cloud = Cloud(self._settings.access)
        memory = ProjectMemory(self._settings.state / "projects.json")
        by_project: dict[str, ProjectImages | ApplianceError] = {}
        resolved = projects.resolve(cloud, self._settings.projects)
        mapped = {found[0].id for found in resolved.values() if isinstance(found, tuple)}
        self._holders = frozenset({*mapped, *memory.former(mapped)})
        for vo, found in resolved.items():
            if isinstance(found, ApplianceError):
                self._by_vo[vo] = found
                self.tally.fail(found)
                continue
            project, scope = found
            if project.id not in by_project:  # several VOs may share a project
                by_project[project.id] = self._load(project.id, project.name, scope)
            self._by_vo[vo] = by_project[project.id]
        self._open_former(cloud, by_project, memory)
        self._open_shares()
        failures = [found for found in self._by_vo.values() if isinstance(found, ApplianceError)]
        if len(failures) == len(self._by_vo):
            raise Unavailable(
                cloud.host,
                f"none of the {len(failures)} projects can be used; the first: {failures[0]}",
            )

    def _open_shares(self) -> None:
        """Learn which images VOs share; repair what killed runs have left half shared."""
        self.shares.projects.update({one.project_id: one for one in self.projects()})
        if self.is_read_only:
            self.shares.learn()
        else:
            self.shares.repair()
            self.shares.report()
            self._forget_layers()
        stated = self.shares.stated()
        for images in self.projects():
            self._removals.expect(one.use.list_id for one in self.shares.used(images, stated))

    def _forget_layers(self) -> None:
        """Forget the layers of images that are gone, if all projects have been listed."""
        if any(isinstance(found, ApplianceError) for found in self._by_vo.values()):
            return
        known = {record.id for images in self.projects() for record in images.active()}
        try:
            self._ownership.layers.keep(known | self._ownership.uploads)
        except LocalFailure as error:
            self.tally.fail(error)

    def _open_former(
        self, cloud: Cloud, mapped: Mapping[str, object], memory: ProjectMemory
    ) -> None:
        """Open the former projects of VOs, as long as they have images of ours."""
        closed: list[str] = []
        for project_id, name in memory.former(mapped).items():
            found = self._load_former(project_id, name, cloud)
            if isinstance(found, ProjectImages):
                self._former.append(found)
            elif isinstance(found, AccessDenied):  # reported once: nothing can be done about it
                closed.append(project_id)
        # A project that is mapped now may get images, and leave the mapping, before the next run.
        holding = {
            one.project_id: one.name
            for one in self.projects()
            if one not in self._former or one.active()
        }
        empty = [one.project_id for one in self._former if not one.active()]
        if not self.is_read_only:
            try:
                memory.note(holding, without=[*closed, *empty])
            except LocalFailure as error:
                self.tally.fail(error)

    def _load_former(
        self, project_id: str, name: str, cloud: Cloud
    ) -> ProjectImages | ApplianceError:
        try:
            scope = cloud.project(project_id)
        except ApplianceError as error:
            self.tally.fail(f"project {name}, which was a VO's: {error}")
            return error
        found = self._load(project_id, name, scope)
        self._doors.pop(project_id, None)  # it is no VO's
        return found

    def _settle_misplaced(self) -> None:
        if self.is_partial:
            return
        for undone in self.shares.settle(self._removals):
            self.tally.fail(undone)
        for found in misplaced.find(list(self.projects()), self._by_vo, has=self.shares.has):
            policy = FormerProjects(self._settings.former_projects)
            if undone := misplaced.settle(found, policy, self._removals):
                self.tally.fail(undone)

    def _load(self, project_id: str, name: str, scope: Scope) -> ProjectImages | ApplianceError:
        images = ProjectImages(
            name=name,
            project_id=project_id,
            glance=Glance(scope),
            ownership=self._ownership,
            tally=self.tally,
            visibility=self._settings.visibility,
            places=self._settings.places,
            doors=self._doors,
            holders=self._holders,
        )
        try:
            images.load()
            if not self.is_read_only:
                images.repair()
        except ApplianceError as error:
            self.tally.fail(error)
            return error
        except Exception as error:  # one project must not affect the others
            logger.exception("project %s", name)
            return self._note_nonsense(name, error)
        self._removals.expect(record.key.list_id for record in images.offered())
        self._doors[project_id] = images.glance
        return images
