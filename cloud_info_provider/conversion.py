"""From the answers of Nova and Glance to facts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from appliance.core import causes
from cloud_info_provider.facts import Accelerators, Flavor, OfferedImage, ServerCounts

# States of servers, as Nova names them.
_SUSPENDED, _HALTED = "SUSPENDED", "SHUTOFF"
_GPU = "GPU"
# Characters of an id in Nova and Glance, and of a property in their databases: nothing that is
# longer is theirs.
_LONGEST_ID, _LONGEST_TEXT = 255, 65_535


@dataclass(frozen=True, slots=True)
class PropertyNames:
    """Names of the properties of flavors and images that a site chooses, with usual ones."""

    infiniband: str = "infiniband"
    infiniband_value: str = "true"
    gpu_number: str = "Accelerator:Number"
    gpu_memory: str = "Accelerator:Memory"
    gpu_virt_type: str = "Accelerator:VirtualizationType"
    gpu_vendor: str = "Accelerator:Vendor"
    gpu_model: str = "Accelerator:Model"
    image_gpu_driver: str = "gpu_driver"
    image_gpu_cuda: str = "gpu_cuda"
    image_gpu_cudnn: str = "gpu_cudnn"


USUAL = PropertyNames()


def flavor(item: Mapping[str, Any], names: PropertyNames = USUAL) -> Flavor:
    """Return a flavor."""
    listed = (item.get("extra_specs") or {}).items()
    specs = {_text(name): _text(value) for name, value in listed}
    return Flavor(
        id=_id(item),
        name=_text(item.get("name") or ""),
        vcpus=int(item["vcpus"]),
        ram=int(item["ram"]),
        disk=int(item["disk"]),
        ephemeral=int(item.get("OS-FLV-EXT-DATA:ephemeral") or 0),
        extra_specs=specs,
        is_public=item.get("os-flavor-access:is_public") is not False,
        has_infiniband=specs.get(names.infiniband, "").lower() == names.infiniband_value.lower(),
        accelerators=_accelerators(specs, names),
    )


def _id(item: Mapping[str, Any]) -> str:
    found = str(item["id"])
    if len(found) > _LONGEST_ID:
        raise ValueError(f"its id has {len(found)} characters")
    return found


def _text(value: object) -> str:
    return str(value)[:_LONGEST_TEXT]


def _accelerators(specs: Mapping[str, str], names: PropertyNames) -> Accelerators | None:
    """Return the accelerators that a flavor's properties describe; None if it has none."""
    try:
        number = float(specs.get(names.gpu_number, ""))
    except ValueError:
        return None
    if not 0 < number < math.inf:
        return None
    memory = specs.get(names.gpu_memory, "")
    return Accelerators(
        type=specs.get("Accelerator:Type", "") or _GPU,
        number=int(number) if number.is_integer() else number,
        vendor=specs.get(names.gpu_vendor, ""),
        model=specs.get(names.gpu_model, ""),
        version=specs.get("Accelerator:Version", ""),
        memory=int(memory) if memory.isascii() and memory.isdecimal() else None,
        virtualization=specs.get(names.gpu_virt_type, ""),
    )


def image(item: Mapping[str, Any], glance: str, names: PropertyNames = USUAL) -> OfferedImage:
    """Return an image of the Glance at a URL.

    Its properties are those of cloudkeeper-os, ATROPE, vmcatcher and Glance itself.
    """

    def first(*keys: str) -> str:
        return next((_text(item[key]) for key in keys if item.get(key)), "")

    attributes = dict(_attributes(first("APPLIANCE_ATTRIBUTES")))
    for name in ("image_gpu_driver", "image_gpu_cuda", "image_gpu_cudnn"):
        if version_of_gpu := first(getattr(names, name)):
            attributes[name.removeprefix("image_")] = version_of_gpu
    texts = {name: value for name, value in attributes.items() if isinstance(value, str)}
    file = first("file")
    return OfferedImage(
        id=_id(item),
        name=first("name"),
        marketplace=first("vmcatcher_event_ad_mpuri", "marketplace"),
        base=texts.get("ad:base_mpuri", ""),
        description=first("vmcatcher_event_dc_description", "vmcatcher_event_dc_title"),
        version=first("image_version", "vmcatcher_event_hv_version")
        or texts.get("hv:version")
        or texts.get("eu.egi.cloud.tag", ""),
        architecture=first("architecture"),
        os_type=first("os_type"),
        os_distribution=first("os_distro"),
        os_version=first("os_version"),
        file=f"{glance}{file}" if file else "",
        attributes=attributes,
    )


@lru_cache(maxsize=1024)  # the same images are offered to many VOs
def _attributes(text: str) -> Mapping[str, Any]:
    """Return the entry of an image list or registry, which is stored as a JSON object.

    The mapping is empty without such an entry, and if JSON cannot represent it once more: Python
    also reads ``NaN``. Halves of characters, which UTF-8 cannot hold, are replaced.
    """
    try:
        again = json.dumps(json.loads(text), allow_nan=False, ensure_ascii=False)
        entry = json.loads(again.encode(errors="replace"))
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def servers(listed: Iterable[Mapping[str, Any]]) -> tuple[ServerCounts, list[str]]:
    """Return the counts of servers by state, and why the cores of some are not in them."""
    states: Counter[str] = Counter()
    vcpus, faults = 0, list[str]()
    for server in listed:
        states[str(server.get("status"))] += 1
        try:
            vcpus += int((server.get("flavor") or {}).get("vcpus") or 0)
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            faults.append(f"server {server.get('id')!r}: {causes.of_answer(error)}")
    suspended, halted = states.pop(_SUSPENDED, 0), states.pop(_HALTED, 0)
    counts = ServerCounts(running=states.total(), suspended=suspended, halted=halted, vcpus=vcpus)
    return counts, faults
