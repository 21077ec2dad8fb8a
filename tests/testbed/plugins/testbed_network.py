"""An ML2 mechanism without agents: every port can be bound on every host, and is up at once."""

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api


class LooseMechanism(api.MechanismDriver):
    """Binds each port to the first segment that it could go to."""

    @property
    def connectivity(self) -> str:
        return portbindings.CONNECTIVITY_L2

    def initialize(self) -> None:
        """Nothing stands behind it."""

    def bind_port(self, context: api.PortContext) -> None:
        segment = next(iter(context.segments_to_bind), None)
        if segment is not None:
            details = {portbindings.CAP_PORT_FILTER: True}
            context.set_binding(
                segment[api.ID],
                portbindings.VIF_TYPE_OVS,
                details,
                status=constants.PORT_STATUS_ACTIVE,
            )
