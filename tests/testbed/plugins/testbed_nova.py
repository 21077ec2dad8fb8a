"""Nova's API, conductor, scheduler and compute in one process, over an in-process transport.

Nova's own functional tests run it this way. The code of every service is Nova's; only the
hypervisor is a fake driver.
"""

# the first of all imports: it chooses threads instead of eventlet
from nova.wsgi import osapi_compute

# isort: split
import os_vif
from nova import context, objects, service
from nova.compute import rpcapi as compute
from nova.conductor import rpcapi as conductor
from nova.objects import host_mapping
from nova.scheduler import rpcapi as scheduler

objects.register_all()
os_vif.initialize()

_running = []
for _binary, _topics in (
    ("nova-conductor", {"topic": conductor.RPC_TOPIC}),
    ("nova-scheduler", {"topic": scheduler.RPC_TOPIC}),
    ("nova-compute", {"topic": compute.RPC_TOPIC, "topic_alt": compute.RPC_TOPIC_ALT}),
):
    _service = service.Service.create(binary=_binary, **_topics)
    _service.start()
    _running.append(_service)

# the scheduler may use the compute host from now on
host_mapping.discover_hosts(context.get_admin_context())
application = osapi_compute.application
