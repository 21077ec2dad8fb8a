"""A project's images in Glance: list, create, upload, change, delete.

Requests go through the adapter of glanceclient's session without glanceclient's own methods: these
turn each status into an exception, read schemas first and send data without a length. The
transport may repeat any call, so each must have the same effect twice: the caller chooses ids,
changes replace values, and data start from their first byte.

A Glance with several nodes may answer from one that has not yet seen a change that another one has
accepted. Requests about an image that was changed a moment ago are therefore retried on 404, and a
record is read again until it shows the change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from keystoneauth1 import exceptions
from keystoneauth1.adapter import Adapter

from appliance.core import causes, hosts, retry
from appliance.core.cloud import pages
from appliance.core.cloud.session import Scope
from appliance.core.run.errors import CHECK_LOGS, AccessDenied, Unavailable

if TYPE_CHECKING:
    import requests

Image = Mapping[str, Any]
"""An image as Glance's API describes it; custom properties are texts beside the standard ones."""
Patch = Sequence[Mapping[str, Any]]
"""Operations of a JSON patch: ``add``, ``replace`` and ``remove`` on the first level."""

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT = 400, 401, 403, 404, 409
GONE, TOO_LARGE, UNSUPPORTED = 410, 413, 415
_PATCH_TYPE = "application/openstack-images-v2.1-json-patch"
_BLOCK_PATIENCE = timedelta(minutes=2)
"""For connecting, and for each block of an upload to be accepted."""
_ANSWER_PATIENCE = timedelta(minutes=30)
"""For the answer to an upload: some stores write only after the last byte has arrived."""
# Bytes of a block of a download.
_BLOCK = 2**20
_SETTLING_ATTEMPTS, _SETTLING_PAUSE = 5, 4.0
"""Attempts at an image that was just changed, and the longest pause in seconds: 11 s at most."""
# Characters of Glance's text in a message.
_SHOWN = 200
_TAGS = re.compile(r"<(head|style|title|h1)\b.*?</\1>|<[^>]*>", re.DOTALL)


T = TypeVar("T")


class _NotYet(Exception):
    """The record of an image does not show a change that Glance has accepted."""

    def __init__(self, image: Image) -> None:
        super().__init__()
        self.image = image


class GlanceRefusal(Unavailable):
    """Glance refused a request: ``code`` is the HTTP status, ``text`` is Glance's own."""

    def __init__(self, where: object, request: str, *, code: int, text: str) -> None:
        cause = f"Glance answers {code} to {request}: {text[:_SHOWN]}"
        super().__init__(where, cause, _REMEDIES.get(code, ""))
        self.method = request.partition(" ")[0]
        self.code = code
        self.text = text


class Data(Protocol):
    """Image data of a known length."""

    is_repeatable: bool
    """Whether they can be read more than once; if not, an upload is not retried."""

    def __len__(self) -> int:
        """Return the number of bytes."""

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield all bytes from the first one, in blocks that stay until the next one is taken."""


class Glance:
    """Glance as one project sees it.

    Every call raises `GlanceRefusal`, or `Unavailable` if there is no answer at all.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def images(self, *, owner: str, hidden: bool) -> Iterator[Image]:
        """Yield the images that a project owns, either the visible or the hidden ones."""
        return self.listed({"owner": owner, "os_hidden": str(hidden).lower()})

    def visible(self, *, owner: str, tags: Sequence[str]) -> Iterator[Image]:
        """Yield the images that users of a project find: its own, public ones, and accepted ones.

        Glance shows an administrator the images of the whole cloud. For such an account, ``owner``
        is the project, and of the shared images only those with one of ``tags`` are found.
        """
        if "admin" not in self._scope.roles:
            yield from self.listed({"os_hidden": "false"})
            return
        yield from self.images(owner=owner, hidden=False)
        queries = [
            {"visibility": "public"},
            *({"visibility": "shared", "tag": tag} for tag in tags),
        ]
        for query in queries:
            for image in self.listed(query):
                if image.get("owner") != owner and (
                    image.get("visibility") == "public" or self._has_accepted(image, owner)
                ):
                    yield image

    def listed(self, query: Mapping[str, str]) -> Iterator[Image]:
        """Yield the images that match a query."""
        return pages.follow(
            lambda url: self._call("GET", url),
            "/v2/images",
            key="images",
            service="Glance",
            catalog=self._scope.catalog_hosts,
            query={**query, "limit": pages.PAGE_SIZE},
        )

    def usage(self) -> Mapping[str, Any]:
        """Return what the project uses of its limits in Keystone, by Glance's names of these.

        Without such limits there are none; before 2.13 of Glance's API the answer is 404.
        """
        found = self._object("GET", "/v2/info/usage").get("usage")
        return found if isinstance(found, dict) else {}

    def get(self, image_id: str) -> Image:
        """Return an image."""
        return self._object("GET", f"/v2/images/{image_id}")

    def settled(self, image_id: str, *, is_settled: Callable[[Image], bool]) -> Image:
        """Return an image that was just changed, once its record ``is_settled``.

        After some attempts, the record is returned as it is.
        """

        def read() -> Image:
            image = self.get(image_id)
            if not is_settled(image):
                raise _NotYet(image)
            return image

        try:
            return _settling(read)
        except _NotYet as error:
            return error.image

    def dated(self, image_id: str) -> tuple[Image, datetime]:
        """Return an image, and the time of the answer by Glance's own clock."""
        path = f"/v2/images/{image_id}"
        response = self._call("GET", path)
        try:
            at = parsedate_to_datetime(response.headers["Date"]).astimezone(UTC)
        except (KeyError, ValueError):
            words = f"Glance answers GET {path} without a valid Date"
            raise Unavailable(hosts.of_url(response.url), words, CHECK_LOGS) from None
        return _as_object(response, f"GET {path}"), at

    def members(self, image_id: str) -> dict[str, str]:
        """Return the projects that an image is shared with: the status of each by its id."""
        path = f"/v2/images/{image_id}/members"
        found = self._object("GET", path).get("members")
        try:
            return {str(each["member_id"]): str(each["status"]) for each in found or ()}
        except (LookupError, TypeError):
            words = f"answers GET {path} with a list that cannot be read"
            raise Unavailable("Glance", words, CHECK_LOGS) from None

    def add_member(self, image_id: str, project_id: str) -> None:
        """Share an image with a project, which must `accept` it; a second time has no effect."""
        path = f"/v2/images/{image_id}/members"
        self._call("POST", path, json={"member": project_id}, accept=(CONFLICT,))

    def accept(self, image_id: str, project_id: str) -> None:
        """Accept an image that is shared with this project: its users then find it."""
        self._answer(image_id, project_id, "accepted")

    def reject(self, image_id: str, project_id: str) -> None:
        """Reject an image that is shared with this project: its users no longer find it."""
        self._answer(image_id, project_id, "rejected")

    def _answer(self, image_id: str, project_id: str, word: str) -> None:
        path = f"/v2/images/{image_id}/members/{project_id}"
        self._call("PUT", path, json={"status": word})

    def remove_member(self, image_id: str, project_id: str) -> None:
        """End the sharing with a project; a project that is no member counts as removed."""
        path = f"/v2/images/{image_id}/members/{project_id}"
        self._call("DELETE", path, accept=(NOT_FOUND,))

    def create(self, image: Image) -> None:
        """Create the record of an image, which has its ``id``: a repeat cannot create another."""
        # 409 is the answer to a repeat, after the answer to the first request was lost.
        self._call("POST", "/v2/images", json=image, accept=(CONFLICT,))

    def upload(self, image_id: str, data: Data) -> None:
        """Upload the data of an image that was just created; Glance checks their length."""
        if data.is_repeatable:
            _settling(lambda: self._put(image_id, data))
        else:  # the record is waited for instead, and no token is renewed in mid-upload
            _settling(lambda: self.get(image_id))
            self._put(image_id, data, attempts=1, allow_reauth=False)

    def _put(self, image_id: str, data: Data, **how: Any) -> None:
        self._call(
            "PUT",
            f"/v2/images/{image_id}/file",
            data=data,
            headers={
                "Content-Type": "application/octet-stream",
                # Newer releases of Glance compare it with the data; older ones ignore it.
                "x-openstack-image-size": str(len(data)),
            },
            timeout=(_BLOCK_PATIENCE.total_seconds(), _ANSWER_PATIENCE.total_seconds()),
            log=False,  # keystoneauth would log the body, all of the image
            **how,
        )

    def change(self, image_id: str, patch: Patch, *, is_new: bool = False) -> Image:
        """Change a record in one step, the whole patch or nothing, and return it.

        ``is_new`` is for an image that was just created or filled.
        """

        def change() -> Image:
            headers = {"Content-Type": _PATCH_TYPE}
            return self._object("PATCH", f"/v2/images/{image_id}", json=patch, headers=headers)

        return _settling(change) if is_new else change()

    def read(self, image: Image) -> Iterator[bytes]:
        """Yield the data of an image in blocks.

        Raises:
            Unavailable: their number is not the one that Glance has recorded.

        """
        path = f"/v2/images/{image['id']}/file"
        patience = _BLOCK_PATIENCE.total_seconds()
        response = self._call("GET", path, stream=True, timeout=patience, log=False)
        count, size = 0, int(image.get("size") or 0)
        try:
            for block in response.iter_content(_BLOCK):
                count += len(block)
                if count > size:
                    break
                yield block
        except OSError as error:  # what requests raises, when the connection is lost
            words = f"GET {path}: {causes.of_connection(error)}"
            raise Unavailable(hosts.of_url(response.url), words, CHECK_LOGS) from error
        finally:
            response.close()
        if count != size:
            words = f"Glance answers GET {path} with other than the {size} bytes of the image"
            raise Unavailable(hosts.of_url(response.url), words, "run again")

    def delete(self, image_id: str) -> None:
        """Delete an image with its data; one that does not exist counts as deleted."""
        self._call("DELETE", f"/v2/images/{image_id}", accept=(NOT_FOUND,))

    def _object(self, method: str, path: str, **more: Any) -> Image:
        """Return the JSON object that Glance answers with."""
        return _as_object(self._call(method, path, **more), f"{method} {path}")

    def _has_accepted(self, image: Image, project_id: str) -> bool:
        return self.members(str(image["id"])).get(project_id) == "accepted"

    def _call(
        self, method: str, path: str, *, accept: Sequence[int] = (), **more: Any
    ) -> requests.Response:
        try:
            response = Adapter.request(self._scope.glance, path, method, raise_exc=False, **more)
        except exceptions.Unauthorized as error:
            raise AccessDenied(
                "Keystone", "no longer gives the account a token", "check its password and roles"
            ) from error
        except exceptions.ClientException as error:
            words = f"{method} {urlsplit(path).path}: {error}"
            raise Unavailable("Glance", words, CHECK_LOGS) from error
        if not response.ok and response.status_code not in accept:
            raise GlanceRefusal(
                hosts.of_url(response.url),
                f"{method} {urlsplit(path).path}",
                code=response.status_code,
                text=" ".join(_TAGS.sub(" ", response.text).split()),
            )
        return response


def _as_object(response: requests.Response, request: str) -> dict[str, Any]:
    """Return the JSON object of the answer to a request.

    Raises:
        Unavailable: it is none; a proxy may answer with something else.

    """
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unavailable(
            hosts.of_url(response.url),
            f"Glance answers {request} without a JSON object",
            CHECK_LOGS,
        )
    return found


_REMEDIES = {
    UNAUTHORIZED: "check the account's password and roles",
    FORBIDDEN: "the account needs the role member in the project; Glance's policy may need more",
    TOO_LARGE: "raise the quota for images, or free space in Glance's store",
}


def _settling(action: Callable[[], T]) -> T:
    """Return the result of a request about an image that was just changed."""

    def decide(error: Exception, pause: float) -> float | None:
        is_missing = isinstance(error, GlanceRefusal) and error.code == NOT_FOUND
        return pause if is_missing or isinstance(error, _NotYet) else None

    return retry.call(
        action,
        on=(GlanceRefusal, _NotYet),
        attempts=_SETTLING_ATTEMPTS,
        longest=_SETTLING_PAUSE,
        decide=decide,
    )
