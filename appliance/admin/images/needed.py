"""The images that services and jobs run in: they come from a bundle, and nothing else fetches them.

docker-compose would: what is not on the host, `up` and `run` of 1.29.2 get from Docker's public
registry, whatever the compose file says, by a name that is not ours alone there. So everybody asks
here first. A tag says little: whoever may talk to the engine can move one to another image. Where a
bundle was installed, its images.lock says which one is meant.
"""

from __future__ import annotations

from collections.abc import Iterable

from appliance.admin.images import locked
from appliance.admin.runtime.engine import Engine
from appliance.admin.settings import Host
from appliance.core.run.errors import Unavailable


def require(engine: Engine, host: Host, services: Iterable[str]) -> dict[str, str]:
    """Return the id of each image, by its tag; raises `Unavailable` when the engine lacks one, or has another."""
    found = {
        tag: engine.image(tag)
        for tag in (f"egifedcloud/{service}:{host.version}" for service in services)
    }
    remedy = f"run scripts/install again, with the release that {host.version_file} names"
    if missing := [tag for tag, identifier in found.items() if not identifier]:
        words = "this image is" if len(missing) == 1 else "these images are"
        raise Unavailable(", ".join(missing), f"{words} not on the host", remedy)
    meant = locked.read(host.images_lock) if host.images_lock.exists() else {}
    if others := [
        tag for tag, identifier in found.items() if meant.get(tag, identifier) != identifier
    ]:
        told = (
            f"the engine has {locked.short(found[tag])}, not {locked.short(meant[tag])}"
            for tag in others
        )
        raise Unavailable(", ".join(others), f"{'; '.join(told)} as in {host.images_lock}", remedy)
    return found
