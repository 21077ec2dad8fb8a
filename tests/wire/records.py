"""One record of each kind with every field, and one with none that is optional."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from caso.kinds.accelerator import Accelerator, AcceleratorRecord
from caso.kinds.ip import IPRecord
from caso.kinds.storage import StorageRecord

START = datetime(2026, 11, 22, 8, 13, 55, tzinfo=UTC)
END = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
MONTH = datetime(2026, 11, 1, tzinfo=UTC)
PEER = "caso/5.2.2 (OpenStack)"

VOLUME = StorageRecord(
    volume_id="3e783dab-3632-4589-ac30-3a06466b4133",
    segment="202611",
    site="TEST-SITE",
    service="keystone.example.org",
    vo="/biomed/Role=NULL/Capability=NULL",
    project_id="ea12952f53c7419aba9641538e582811",
    user_id="25981facd2d746618c2a6db9f59df1e7",
    user_name='a <b> & "c"@egi.eu',
    size=20,
    start=START,
    end=END,
    created=START - timedelta(days=40),
    status="in-use",
    name="data & more",
    attached_to="eea8446c-1519-43ae-8ad1-35040ec2e5e8",
    attached=timedelta(seconds=600),
    cloud_type=PEER,
)
PLAIN_VOLUME = StorageRecord(
    volume_id="1a537761-d805-45a8-bd4f-b30ad2137cec",
    segment="202611",
    site="TEST-SITE",
    service="TEST-SITE",
    vo="ops",
    project_id="ea12952f53c7419aba9641538e582811",
    user_id="25981facd2d746618c2a6db9f59df1e7",
    size=16384,
    start=MONTH,
    end=END,
    created=MONTH - timedelta(days=400),
    status="available",
    cloud_type=PEER,
)
ADDRESSES = IPRecord(
    site="TEST-SITE",
    service="keystone.example.org",
    vo="/biomed/Role=NULL/Capability=NULL",
    project_id="ea12952f53c7419aba9641538e582811",
    user_id="25981facd2d746618c2a6db9f59df1e7",
    user_name='78e5 "x"@egi.eu',
    version=4,
    count=5,
    measured=END,
    cloud_type=PEER,
)
UNOWNED = IPRecord(
    site="TEST-SITE",
    service="TEST-SITE",
    vo="ops",
    project_id="ea12952f53c7419aba9641538e582811",
    user_id="ea12952f53c7419aba9641538e582811",
    version=6,
    count=1,
    measured=END,
    cloud_type=PEER,
)
GPUS = AcceleratorRecord(
    vm_uuid="2baa2a7e-22d7-4273-93ef-e5c65a6e9d5c",
    site="TEST-SITE",
    service="keystone.example.org",
    vo="/biomed/Role=NULL/Capability=NULL",
    user_name="78e5@egi.eu",
    accelerator=Accelerator("GPU", "NVIDIA A100", Decimal(2)),
    month=MONTH,
    active=timedelta(hours=2),
    cloud_type=PEER,
)
HALF_A_GPU = AcceleratorRecord(
    vm_uuid="467bde93-49f7-4654-a6fd-76655f6995e7",
    site="TEST-SITE",
    service="TEST-SITE",
    vo="ops",
    accelerator=Accelerator("GPU", "NVIDIA A100", Decimal("0.5")),
    month=MONTH,
    active=timedelta(seconds=17),
    cloud_type=PEER,
)
