"""Cinder's API, scheduler and volume service in one process, over an in-process transport."""

from cinder import monkey_patch

monkey_patch.patch(backend="threading")

from typing import Any  # noqa: E402

import oslo_messaging  # noqa: E402
from cinder import service  # noqa: E402
from cinder.common import constants  # noqa: E402
from cinder.wsgi import api  # noqa: E402
from oslo_config import cfg  # noqa: E402

_eventlet_server = oslo_messaging.get_rpc_server


def _threading_server(*arguments: Any, **options: Any) -> Any:
    """Cinder still asks for eventlet's executor, which nothing drives here."""
    return _eventlet_server(*arguments, **options | {"executor": "threading"})


oslo_messaging.get_rpc_server = _threading_server

_running = [service.Service.create(binary="cinder-scheduler")]
_running += [
    service.Service.create(
        host=f"{cfg.CONF.host}@{backend}",
        service_name=backend,
        binary=constants.VOLUME_BINARY,
        coordination=True,
    )
    for backend in cfg.CONF.enabled_backends
]
for _service in _running:
    _service.start()
application = api.application
