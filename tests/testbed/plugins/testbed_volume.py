"""A Cinder driver whose volumes exist in the database only."""

from typing import Any

from cinder import interface
from cinder.objects.volume import Volume
from cinder.volume import driver


@interface.volumedriver
class PaperVolumes(driver.VolumeDriver):
    """Agrees to everything and stores nothing."""

    VERSION = "1.0.0"

    def check_for_setup_error(self) -> None:
        """Nothing can be wrong."""

    def _update_volume_stats(self) -> None:
        self._stats = {
            "volume_backend_name": self.configuration.safe_get("volume_backend_name"),
            "vendor_name": "testbed",
            "driver_version": self.VERSION,
            "storage_protocol": "paper",
            "total_capacity_gb": 100_000,
            "free_capacity_gb": 100_000,
            "reserved_percentage": 0,
            "multiattach": True,
        }

    def initialize_connection(self, volume: Volume, connector: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002  the interface has it
        return {"driver_volume_type": "fake", "data": {"volume_id": volume.id}}

    def _agree(self, *_arguments: Any, **_options: Any) -> None:
        """Do nothing."""

    create_volume = delete_volume = extend_volume = _agree
    create_snapshot = delete_snapshot = create_volume_from_snapshot = create_cloned_volume = _agree
    copy_image_to_volume = copy_volume_to_image = _agree
    ensure_export = create_export = remove_export = terminate_connection = _agree
