"""Check that the engine has the images of services and jobs, as the bundle brought them.

`up` and `run` of docker-compose 1.29.2 fetch a missing image from Docker's public registry, where
anyone may own the name; the compose file cannot prevent that. All callers of docker-compose
therefore call `require` first. Everybody with access to the engine can move a tag to another image,
so the ids are compared with images.lock of the installed bundle.
"""

from __future__ import annotations

from collections.abc import Iterable

from appliance.admin.images import locked
from appliance.admin.runtime.engine import Engine
from appliance.admin.settings import Host
from appliance.core.run.errors import Unavailable


def require(engine: Engine, host: Host, services: Iterable[str]) -> dict[str, str]:
    """Return the id of each image, by its tag.

    Raises:
        Unavailable: The engine lacks an image, or the id differs from images.lock.

    """
    tags = [f"egifedcloud/{service}:{host.version}" for service in services]
    found = {tag: engine.image(tag) for tag in tags}
    remedy = f"run install of the bundle whose version {host.version_file} names"
    if missing := [tag for tag, identifier in found.items() if not identifier]:
        words = "this image is" if len(missing) == 1 else "these images are"
        raise Unavailable(", ".join(missing), f"{words} not on the host", remedy)
    meant = locked.read(host.images_lock) if host.images_lock.exists() else {}
    if others := [
        tag for tag, identifier in found.items() if meant.get(tag, identifier) != identifier
    ]:
        causes = (
            f"the engine has {locked.short(found[tag])}, not {locked.short(meant[tag])}"
            for tag in others
        )
        cause = f"{'; '.join(causes)} as in {host.images_lock}"
        raise Unavailable(", ".join(others), cause, remedy)
    return found
