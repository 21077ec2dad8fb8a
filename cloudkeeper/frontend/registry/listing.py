"""Which artefacts a project of a registry offers: tags that match a pattern, each with its digest.

Harbor lists tags with digests, page by page. Any other registry lists its repositories
(``/v2/_catalog``, which many close; then the configuration names them) and their tags; each tag is
resolved by one request, which names the digest of the last run and so usually brings no content.
Whatever a run does afterwards is by digest: a tag that moves meanwhile changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from appliance.core.registry import names
from appliance.core.registry.client import NOT_FOUND, NOT_MODIFIED, RegistryClient
from appliance.core.registry.login import NotShown
from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.run.errors import Unavailable
from appliance.core.trust.errors import Malformed, Tampered
from cloudkeeper.frontend.registry.artefact import MANIFEST_TYPES

PAGE_SIZE = 50
"""Items of a page: atrope's default, half of the most that Harbor allows."""
_MOST = 10_000
"""Repositories of a project, and tags of a repository."""
_Item = TypeVar("_Item")
ACCEPT = {"Accept": ", ".join(MANIFEST_TYPES)}
DIGEST_HEADER = "Docker-Content-Digest"


class ProjectListing(Protocol):
    """A way to list a project, of whose ``tags`` those that match count."""

    @property
    def tags(self) -> re.Pattern[str]:
        """The pattern of the tags."""
        ...

    @property
    def repositories(self) -> tuple[str, ...]:
        """The only repositories to list; none: all."""
        ...

    def artefacts(self, known: Mapping[str, Digest]) -> Iterator[TaggedArtefact]:
        """Yield the artefacts of the project; ``known`` are digests of the last run by reference.

        Raises:
            ApplianceError: the project cannot be listed as a whole.

        """
        ...


@dataclass(frozen=True, slots=True)
class HarborListing:
    """Lists a project by Harbor's API."""

    client: RegistryClient
    project: str
    tags: re.Pattern[str]
    repositories: tuple[str, ...] = ()

    def artefacts(self, known: Mapping[str, Digest]) -> Iterator[TaggedArtefact]:
        """Yield the artefacts of the project; see `ProjectListing`."""
        del known  # Harbor's listing has the digests
        missing = set(self.repositories)
        for repository in _bounded(self._repositories(), f"project {self.project}"):
            if self.repositories and repository not in self.repositories:
                continue
            missing.discard(repository)
            yield from _bounded(self._tagged(repository), f"repository {repository}")
        if missing:  # a misspelled name must not remove the images of the right one
            words = f"has no repository {', '.join(sorted(missing))}"
            raise NotShown(self._subject, words, "correct repositories in sources.yaml")

    def _repositories(self) -> Iterator[str]:
        path = f"/api/v2.0/projects/{quote(self.project, safe='')}/repositories"
        for page in self.client.pages(f"{path}?page=1&page_size={PAGE_SIZE}", scope=self.project):
            for item in _items(page, self._subject):
                name = item.get("name")
                if not isinstance(name, str) or not self._is_ours(name):
                    raise Malformed(self._subject, f"lists {str(name)[:80]!r} as a repository")
                yield name

    def _tagged(self, repository: str) -> Iterator[TaggedArtefact]:
        # Harbor decodes the name twice, so that a slash in it does not end it.
        name = quote(quote(repository.removeprefix(f"{self.project}/"), safe=""), safe="")
        path = f"/api/v2.0/projects/{quote(self.project, safe='')}/repositories/{name}/artifacts"
        query = f"with_tag=true&with_label=false&page=1&page_size={PAGE_SIZE}"
        for page in self.client.pages(f"{path}?{query}", scope=self.project):
            for item in _items(page, self._subject):
                for tag in _items(item.get("tags") or [], self._subject):
                    text = tag.get("name")
                    if not isinstance(text, str) or not names.is_tag(text):
                        raise Malformed(self._subject, f"lists {str(text)[:80]!r} as a tag")
                    if self.tags.fullmatch(text) and not names.is_attachment(text):
                        found = names.digest(item.get("digest"), subject=f"{repository}:{text}")
                        yield TaggedArtefact(repository, text, found)

    def _is_ours(self, name: str) -> bool:
        return name.startswith(f"{self.project}/") and names.is_repository(name)

    @property
    def _subject(self) -> str:
        return f"{self.client.host}/{self.project}"


@dataclass(frozen=True, slots=True)
class DistributionListing:
    """Lists a project by the distribution API; ``repositories`` are its names, empty: all."""

    client: RegistryClient
    project: str
    tags: re.Pattern[str]
    repositories: tuple[str, ...] = ()

    def artefacts(self, known: Mapping[str, Digest]) -> Iterator[TaggedArtefact]:
        """Yield the artefacts of the project; see `ProjectListing`."""
        listed = self.repositories or _bounded(self._catalog(), f"project {self.project}")
        for repository in listed:
            for tag in _bounded(self._tags(repository), f"repository {repository}"):
                reference = f"{repository}:{tag}"
                found = look_up(self.client, repository, tag, known=known.get(reference))
                if found is not None:  # else deleted between two requests
                    yield found

    def _catalog(self) -> Iterator[str]:
        for page in self.client.pages(f"/v2/_catalog?n={PAGE_SIZE}", scope=self.project):
            for name in _texts(page, "repositories", self._subject):
                if name.startswith(f"{self.project}/") and names.is_repository(name):
                    yield name

    def _tags(self, repository: str) -> Iterator[str]:
        path = f"/v2/{repository}/tags/list?n={PAGE_SIZE}"
        for page in self.client.pages(path, scope=repository):
            for tag in _texts(page, "tags", self._subject):
                is_wanted = names.is_tag(tag) and self.tags.fullmatch(tag)
                if is_wanted and not names.is_attachment(tag):
                    yield tag

    @property
    def _subject(self) -> str:
        return f"{self.client.host}/{self.project}"


def resolve(
    client: RegistryClient, repository: str, tag: str, *, known: Digest | None = None
) -> Digest | None:
    """Return the digest of the manifest that a tag names, None when there is no such tag.

    Raises:
        Tampered: the registry contradicts itself.
        ApplianceError: as for `look_up`.

    """
    found = look_up(client, repository, tag, known=known)
    if found is not None and found.fault:
        raise Tampered(f"{client.host}/{found.reference}", found.fault)
    return found.digest if found else None


def look_up(
    client: RegistryClient, repository: str, tag: str, *, known: Digest | None = None
) -> TaggedArtefact | None:
    """Return what a tag names, None when there is no such tag.

    The digest is that of the bytes that came; a header of the registry is not trusted for it, and
    one that contradicts it is the artefact's fault, which costs no other artefact of a listing.
    With ``known``, a registry that still has this digest answers without content.

    Raises:
        ApplianceError: the registry gives no answer that can be used.

    """
    headers = ACCEPT | ({"If-None-Match": f'"{known}"'} if known else {})
    answer = client.get(f"/v2/{repository}/manifests/{tag}", scope=repository, headers=headers)
    if answer.status == NOT_FOUND:
        return None
    if answer.status == NOT_MODIFIED:
        if known is None:
            raise Unavailable(f"{client.host}/{repository}:{tag}", "answers 304 unasked")
        return TaggedArtefact(repository, tag, known)
    fault = names.contradiction(answer.headers.get(DIGEST_HEADER, ""), answer.content)
    return TaggedArtefact(repository, tag, names.digest_of(answer.content), fault)


def _items(page: Any, subject: str) -> list[dict[str, Any]]:
    if not isinstance(page, list) or not all(isinstance(item, dict) for item in page):
        raise Malformed(subject, "its listing is not one of Harbor's")
    return page


def _texts(page: Any, key: str, subject: str) -> list[str]:
    found = page.get(key) if isinstance(page, dict) else None
    found = [] if found is None and isinstance(page, dict) else found  # no tags: null
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise Malformed(subject, f"its listing of {key} is malformed")
    return found


def _bounded(items: Iterable[_Item], subject: str) -> Iterator[_Item]:
    for number, item in enumerate(items):
        if number >= _MOST:
            raise Malformed(subject, f"lists more than {_MOST} items")
        yield item
