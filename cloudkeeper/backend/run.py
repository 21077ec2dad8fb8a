"""One run of a frontend, from PreAction to PostAction: the projects, what they hold, and what has been done."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from appliance.core.cloud.glance import Glance
from appliance.core.cloud.project import Project
from appliance.core.cloud.session import Cloud, Scope
from appliance.core.run.errors import ApplianceError, ExitStatus, Unavailable
from cloudkeeper.backend import projects
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.images import ProjectImages
from cloudkeeper.backend.ownership import Ownership
from cloudkeeper.backend.properties import ApplianceKey, ImageRecord
from cloudkeeper.backend.settings import BackendSettings
from cloudkeeper.backend.tally import RunTally
from cloudkeeper.model import ListId
from cloudkeeper.wire.status import CallStatus

logger = logging.getLogger(__name__)


class Run:
    """The stores of all projects as they were when the run began, kept up to date by its changes.

    A project that cannot be reached costs the VO's own images, and nobody else's. With ``is_look``
    nothing is mended and no record is written: it is only for looking.

    :raises ApplianceError: no project at all can be reached
    """

    def __init__(
        self,
        configuration: BackendSettings,
        installation: Ownership,
        *,
        allowance: int = 0,
        is_look: bool = False,
    ) -> None:
        self._configuration = configuration
        self._installation = installation
        self._is_look = is_look
        self.tally = RunTally(allowance=allowance)
        self._stores: dict[str, ProjectImages | ApplianceError] = {}
        try:
            self._open()
        except ApplianceError as error:
            self.tally.fail(error)
            if not is_look:
                self.close(ExitStatus.NOTHING)
            raise
        except Exception as error:
            self.tally.fail(f"bug in cloudkeeper-os: {type(error).__name__}: {error}")
            if not is_look:
                self.close(ExitStatus.BUG)
            raise

    def store(self, vo: str) -> ProjectImages:
        """Return the store of a VO.

        :raises ApplianceError: there is none
        """
        found = self._stores.get(vo)
        if found is None:
            remedy = f"add it to {self._configuration.mapping}, if its images are wanted"
            raise Failed(f"VO {vo}", "is mapped to no project", remedy, status=CallStatus.ERROR)
        if isinstance(found, ApplianceError):
            raise found
        return found

    def stores(self) -> Iterator[ProjectImages]:
        """Yield all stores that can be reached, each once."""
        seen = set()
        for store in self._stores.values():
            if isinstance(store, ProjectImages) and store.project_id not in seen:
                seen.add(store.project_id)
                yield store

    def offered(self) -> Iterator[ImageRecord]:
        """Yield what is offered of each VO in its own project; what lies in another one helps none of its users."""
        for store in self.stores():
            yield from (
                record for record in store.offered() if self._stores.get(record.key.vo) is store
            )

    def withdraw(self, list_id: ListId, wanted: ApplianceKey | None = None) -> None:
        """Offer nothing of a list any longer, wherever it is; or only one of its appliances.

        :raises ApplianceError: that would be too much, or some of it was not possible
        """
        stores = [self.store(wanted.vo)] if wanted else self.stores()
        found = [
            (store, key) for store in stores for key in store.keys(list_id) if wanted in (None, key)
        ]
        self.tally.allow_removal(list_id, len(found))
        failures: list[ApplianceError] = []
        for store, key in found:
            try:
                store.withdraw(key)
            except ApplianceError as error:  # the others go nevertheless
                failures.append(error)
        for failure in failures[1:]:
            self.tally.fail(failure)
        if failures:
            raise failures[0]

    def finish(self) -> None:
        """Tidy up and write the record."""
        for store in self.stores():
            try:
                store.sweep()
            except Exception as error:  # what one project brings about must not cost the others
                logger.exception("project %s", store.name)
                self._note_nonsense(store.name, error)
            self.tally.count("images", len(store.offered()))
        self.close()

    def abandon(self, reason: str) -> None:
        """Write the record of a run that nobody has ended."""
        self.tally.fail(reason)
        self.close()

    def _note_nonsense(self, name: str, error: Exception) -> Failed:
        words = f"an answer of the cloud is not understood: {type(error).__name__}: {error}"
        failure = Failed(f"project {name}", words, status=CallStatus.RESOURCE_RETRIEVAL)
        self.tally.fail(failure)
        return failure

    def close(self, status: ExitStatus | None = None) -> None:
        """Write the record of the run; ``status`` is by what has been noted, if it is not given."""
        self.tally.close(self._configuration.runs, status=status)

    def _open(self) -> None:
        cloud = Cloud(self._configuration.access)
        by_project: dict[str, ProjectImages | ApplianceError] = {}
        for vo, found in projects.resolve(cloud, self._configuration.projects).items():
            if isinstance(found, ApplianceError):
                self._stores[vo] = found
                self.tally.fail(found)
                continue
            project, scope = found
            if project.id not in by_project:
                by_project[project.id] = self._load(project, scope)
            self._stores[vo] = by_project[project.id]
        self._tell_of_misplaced()
        failures = [found for found in self._stores.values() if isinstance(found, ApplianceError)]
        if len(failures) == len(self._stores):
            raise Unavailable(
                cloud.host, f"no project of {len(failures)} can be used; the first: {failures[0]}"
            )

    def _tell_of_misplaced(self) -> None:
        for store in self.stores():
            for vo in sorted({record.key.vo for record in store.offered()}):
                if self._stores.get(vo) is not store:
                    where = (
                        f"project {store.name}: has images of VO {vo}, which is not mapped to it"
                    )
                    self.tally.fail(
                        f"{where}: they stay as they are; delete them, or correct the mapping"
                    )

    def _load(self, project: Project, scope: Scope) -> ProjectImages | ApplianceError:
        store = ProjectImages(
            name=project.name,
            project_id=project.id,
            glance=Glance(scope),
            installation=self._installation,
            tally=self.tally,
            visibility=self._configuration.visibility,
            directory=self._configuration.image_directory,
        )
        try:
            store.load()
            if not self._is_look:
                store.repair()
        except ApplianceError as error:
            self.tally.fail(error)
            return error
        except Exception as error:  # what one project brings about must not cost the others
            logger.exception("project %s", project.name)
            return self._note_nonsense(project.name, error)
        self.tally.expect(record.key.list_id for record in store.offered())
        return store
