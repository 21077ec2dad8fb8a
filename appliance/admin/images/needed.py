"""The images that services and jobs run in: they come from a bundle, and nothing else fetches them.

docker-compose would: what is not on the host, `up` and `run` of 1.29.2 get from Docker's public registry, whatever the
compose file says, by a name that is not ours alone there. So everybody asks here first.
"""

from __future__ import annotations

from collections.abc import Iterable

from appliance.admin.engine import Engine
from appliance.admin.settings import Host
from appliance.core.run.errors import Unavailable


def require(engine: Engine, host: Host, services: Iterable[str]) -> dict[str, str]:
    """Return the id of each image, by its tag; raises `Unavailable` when the engine lacks one."""
    found = {tag: engine.image(tag) for tag in (f"egifedcloud/{service}:{host.version}" for service in services)}
    if missing := [tag for tag, identifier in found.items() if not identifier]:
        words = "this image is" if len(missing) == 1 else "these images are"
        remedy = f"run scripts/install again, with the release that {host.environment_file} names"
        raise Unavailable(", ".join(missing), f"{words} not on the host", remedy)
    return found
