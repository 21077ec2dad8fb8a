"""Our messages compared with frames of the 1.x protocol that other code has made."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from appliance.core.trust.errors import Malformed
from cloudkeeper.model import Appliance, ApplianceId, Format, ImageData, ListId, TransferMode
from cloudkeeper.wire import communicator_1x_pb2 as pb
from cloudkeeper.wire.messages import from_message, to_message

FRAMES = Path(__file__).parent / "frames-1x"
NAMES = sorted(path.stem for path in FRAMES.glob("*.bin") if path.stem != "empty")
APPLIANCES = [name for name in NAMES if name.startswith("appliance")]
CHECKSUM = (
    "1f40fc92da241694750979ee6cf582f2d5d7d28e18335de0"
    "5abc54d0560e0f5302860c652bf08d560252aa5e74210546"
    "f369fbbbce8c12cfc7957b2652fe9a75"
)


def frame(name: str) -> bytes:
    return (FRAMES / f"{name}.bin").read_bytes()


def described(name: str) -> Message:
    entry = json.loads((FRAMES / f"{name}.json").read_text())
    kinds: dict[str, type[Message]] = {
        "Appliance": pb.Appliance,
        "ImageListIdentifier": pb.ImageListIdentifier,
    }
    return ParseDict(entry["fields"], kinds[entry["message"]]())


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_1x(name: str) -> None:
    wanted = described(name)
    read = type(wanted).FromString(frame(name))
    assert read == wanted
    assert read.SerializeToString(deterministic=True) == frame(name)


@pytest.mark.parametrize("name", [name for name in APPLIANCES if name != "appliance-extremes"])
def test_an_appliance_goes_through_the_model_unchanged(name: str) -> None:
    message = to_message(from_message(pb.Appliance.FromString(frame(name))))
    assert message.SerializeToString(deterministic=True) == frame(name)


def test_a_full_appliance_is_read_as_written() -> None:
    read = from_message(pb.Appliance.FromString(frame("appliance-local-image")))
    fields = json.loads((FRAMES / "appliance-local-image.json").read_text())["fields"]
    assert read == Appliance(
        identifier=ApplianceId("5b4f1d2e-0000-4000-8000-000000000001"),
        list_id=ListId("7c1d2e3f-0000-4000-8000-00000000000a"),
        vo="ops",
        title="Example image [Ubuntu/22.04/KVM]",
        description="Image of the example site, with a line break\nand UTF-8: añil",
        mpuri="https://appdb.egi.eu/store/vo/image/5b4f1d2e-0000-4000-8000-000000000001:7/",
        group="General group",
        ram=2 * 2**30,
        cores=2,
        version="2026.01.31",
        architecture="x86_64",
        operating_system="Linux Ubuntu 22.04",
        expires=datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC),
        attributes=fields["attributes"],
        data=ImageData(
            location="/var/spool/cloudkeeper/images/ubuntu-22.04.qcow2",
            format=Format.QCOW2,
            checksum=CHECKSUM,
            size=2148073472,
            uri="https://images.example.org/ubuntu-22.04.qcow2",
        ),
    )


def test_a_remote_image_keeps_its_credentials_out_of_sight() -> None:
    data = from_message(pb.Appliance.FromString(frame("appliance-remote-image"))).data
    fields = json.loads((FRAMES / "appliance-remote-image.json").read_text())["fields"]["image"]
    assert data is not None
    assert data.mode is TransferMode.REMOTE
    assert (data.username, data.password) == (fields["username"], fields["password"])
    assert fields["password"] not in repr(data)


@pytest.mark.parametrize(("number", "meant"), [(5, Format.ISO), (6, Format.VDI)])
def test_formats_with_the_numbers_of_cloudkeeper_2(number: int, meant: Format) -> None:
    """Field 14 of Appliance is the image, whose field 3 is its format."""
    made = bytes([14 << 3 | 2, 2, 3 << 3, number])
    data = from_message(pb.Appliance.FromString(made)).data
    assert data is not None
    assert data.format is meant
    appliance = Appliance(ApplianceId(""), ListId(""), data=ImageData("", meant, "", 0))
    assert to_message(appliance).image.format == number


def test_no_image_and_an_empty_image_differ() -> None:
    assert from_message(pb.Appliance.FromString(frame("appliance-no-image"))).data is None
    extreme = from_message(pb.Appliance.FromString(frame("appliance-extremes")))
    assert extreme.data == ImageData("", Format.RAW, "", 0)
    assert extreme.expires == datetime(1, 1, 1, tzinfo=UTC)
    assert (extreme.ram, extreme.cores) == (0, 2147483647)


@pytest.mark.parametrize(
    ("stated", "meant"), [(512, 512 * 2**20), (2**20 - 1, (2**20 - 1) * 2**20), (2**20, 2**20)]
)
def test_memory_without_a_unit_is_mebibytes_below_a_mebibyte(stated: int, meant: int) -> None:
    assert from_message(pb.Appliance(ram=stated)).ram == meant


@pytest.mark.parametrize(
    "message",
    [
        pb.Appliance(identifier="x", expiration_date=2**62),
        pb.Appliance(identifier="x", image=pb.Image(format=9)),  # type: ignore[arg-type]
        pb.Appliance(identifier="x", image=pb.Image(mode=2)),  # type: ignore[arg-type]
    ],
    ids=["date", "format", "mode"],
)
def test_values_without_a_meaning_are_refused(message: pb.Appliance) -> None:
    with pytest.raises(Malformed, match=r"appliance x: its "):
        from_message(message)
