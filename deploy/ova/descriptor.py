"""The description of a machine in OVF 1.1 (DMTF DSP0243), and the manifest of its files.

Importers are strict about the order of elements, which is that of DMTF's schema: the children of an
item are in the order of the alphabet. Of two ways, the file takes the one that VMware's ovftool and
VirtualBox both read.

The properties are those of cloud-init's data source OVF. VMware asks for them at import and gives
them to the machine on a CD; VirtualBox ignores them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape, quoteattr

from deploy.ova.virtual_machine import ADAPTER, HARDWARE, VirtualMachine

_SCHEMAS = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
_FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_NETWORK = "VM Network"
"""The name that VMware gives to a host's first network; VirtualBox bridges an unknown name."""
_DEBIAN = 96
"""Debian, 64 bits, among the systems that CIM_OperatingSystem numbers."""
_PROCESSOR, _MEMORY, _IDE, _SCSI, _NETWORK_CARD, _CD, _DISK = 3, 4, 5, 6, 10, 15, 17
"""Types of CIM_ResourceAllocationSettingData."""
_PROPERTIES = (
    (
        "instance-id",
        "Instance",
        "A change of it makes cloud-init start as on a new machine.",
        "id-ovf",
    ),
    ("hostname", "Host name", "The full name of the machine in DNS.", ""),
    ("public-keys", "SSH key", "One public key of the administrator; there is no password.", ""),
    ("user-data", "User data", "cloud-init's user data, in base64.", ""),
)
_ABOUT = (
    "Federates an OpenStack site with EGI. Log in with your SSH key; the message of the day says "
    "what is still to be configured."
)


def describe(machine: VirtualMachine, *, size: int, capacity: int) -> str:
    """Return the description; the disk's file has ``size`` bytes, the disk ``capacity``."""
    name = escape(machine.name)
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<Envelope ovf:version="1.0" xml:lang="en-US" xmlns="http://schemas.dmtf.org/ovf/envelope/1"\
 xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"\
 xmlns:rasd="{_SCHEMAS}/CIM_ResourceAllocationSettingData"\
 xmlns:vssd="{_SCHEMAS}/CIM_VirtualSystemSettingData"\
 xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vbox="http://www.virtualbox.org/ovf/machine">
  <References>
    <File ovf:href={quoteattr(machine.disk)} ovf:id="file1" ovf:size="{size}"/>
  </References>
  <DiskSection>
    <Info>The disk of the machine</Info>
    <Disk ovf:capacity="{capacity}" ovf:diskId="vmdisk1" ovf:fileRef="file1"\
 ovf:format="{_FORMAT}"/>
  </DiskSection>
  <NetworkSection>
    <Info>The network of the machine</Info>
    <Network ovf:name="{_NETWORK}">
      <Description>A network that the cloud and the users of port 2170 can reach</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>The FedCloud Appliance</Info>
    <Name>{name}</Name>
    <AnnotationSection>
      <Info>What the machine is for</Info>
      <Annotation>{_ABOUT}</Annotation>
    </AnnotationSection>
    <ProductSection>
      <Info>The appliance and its first configuration</Info>
      <Product>FedCloud Appliance</Product>
      <Version>{escape(machine.version)}</Version>
      <FullVersion>{escape(machine.version)} on Debian {escape(machine.release)},\
 {machine.day}</FullVersion>
{"".join(_properties())}\
    </ProductSection>
    <OperatingSystemSection ovf:id="{_DEBIAN}" ovf:version={quoteattr(machine.release)}\
 vmw:osType="debian10_64Guest">
      <Info>The operating system</Info>
      <Description>Debian GNU/Linux {escape(machine.release)} (64 bit)</Description>
      <vbox:OSType ovf:required="false">Debian_64</vbox:OSType>
    </OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="iso">
      <Info>The hardware of the machine</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-{HARDWARE}</vssd:VirtualSystemType>
      </System>
{"".join(_items(machine))}\
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""


def _properties() -> Iterator[str]:
    for key, label, text, value in _PROPERTIES:
        yield f"""\
      <Property ovf:key="{key}" ovf:type="string" ovf:userConfigurable="true" ovf:value="{value}">
        <Label>{label}</Label>
        <Description>{text}</Description>
      </Property>
"""


def _items(machine: VirtualMachine) -> Iterator[str]:
    yield _item(1, "Processors", _PROCESSOR, {"VirtualQuantity": machine.processors})
    memory = {"AllocationUnits": "byte * 2^20", "VirtualQuantity": machine.memory}
    yield _item(2, "Memory", _MEMORY, memory)
    yield _item(3, "SCSI controller", _SCSI, {"Address": 0, "ResourceSubType": ADAPTER})
    yield _item(4, "IDE controller", _IDE, {"Address": 0})
    disk = {"AddressOnParent": 0, "HostResource": "ovf:/disk/vmdisk1", "Parent": 3}
    yield _item(5, "Disk", _DISK, disk)
    drive = {
        "AddressOnParent": 0,
        "AutomaticAllocation": "false",
        "Parent": 4,
        "ResourceSubType": "vmware.cdrom.remotepassthrough",
    }
    yield _item(6, "CD drive", _CD, drive, start='<Item ovf:required="false">')
    card = {"AutomaticAllocation": "true", "Connection": _NETWORK, "ResourceSubType": "E1000"}
    yield _item(7, "Network card", _NETWORK_CARD, card)


def _item(
    identifier: int, name: str, kind: int, more: Mapping[str, object], *, start: str = "<Item>"
) -> str:
    found = {"ElementName": name, "InstanceID": identifier, "ResourceType": kind, **more}
    lines = [f"        <rasd:{key}>{found[key]}</rasd:{key}>\n" for key in sorted(found)]
    return f"      {start}\n{''.join(lines)}      </Item>\n"


def manifest(digests: Mapping[str, str]) -> str:
    """Return the manifest of files with their SHA-256.

    There is no blank before the bracket: ovftool takes it for a part of the algorithm's name.
    """
    return "".join(f"SHA256({name})= {digest}\n" for name, digest in digests.items())
