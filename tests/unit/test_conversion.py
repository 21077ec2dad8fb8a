"""Answers of Nova and Glance as facts: properties that sites choose, texts that break."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from cloud_info_provider import conversion
from cloud_info_provider.conversion import PropertyNames
from cloud_info_provider.facts import Accelerators, OfferedImage, ServerCounts
from tests.simulators import offering_cloud

GLANCE = "https://g.example.org/image"
ALL = {
    "Accelerator:Type": "FPGA",
    "Accelerator:Number": "2",
    "Accelerator:Vendor": "AMD",
    "Accelerator:Model": "U250",
    "Accelerator:Version": "3",
    "Accelerator:Memory": "64",
    "Accelerator:VirtualizationType": "passthrough",
}


def accelerators(specs: dict[str, str], **names: str) -> Accelerators | None:
    flavor = offering_cloud.flavor("1", extra_specs=specs)
    return conversion.flavor(flavor, PropertyNames(**names)).accelerators


@pytest.mark.parametrize(
    ("properties", "version"),
    [
        ({"image_version": "7"}, "7"),
        ({"vmcatcher_event_hv_version": "8"}, "8"),
        ({"APPLIANCE_ATTRIBUTES": '{"hv:version": "9"}'}, "9"),
        ({"APPLIANCE_ATTRIBUTES": '{"eu.egi.cloud.tag": "24.04"}'}, "24.04"),
        ({"APPLIANCE_ATTRIBUTES": '{"eu.egi.cloud.tag": 24}'}, ""),
        ({}, ""),
    ],
)
def test_version_of_an_image_of_a_list_or_registry(
    properties: dict[str, str], version: str
) -> None:
    item = offering_cloud.image("a", **properties)
    assert conversion.image(item, GLANCE).version == version


def test_accelerators_of_a_flavor() -> None:
    assert accelerators(ALL) == Accelerators("FPGA", 2, "AMD", "U250", "3", 64, "passthrough")
    assert accelerators({"Accelerator:Number": "0.5"}) == Accelerators("GPU", 0.5)


@pytest.mark.parametrize("number", ["", "0", "-1", "nan", "inf", "1e999", "two"])
def test_a_number_that_is_none_is_no_accelerator(number: str) -> None:
    assert accelerators({**ALL, "Accelerator:Number": number}) is None


@pytest.mark.parametrize("memory", ["40GB", "", "-1", "٤"])
def test_a_memory_that_is_no_number_is_left_out(memory: str) -> None:
    found = accelerators({**ALL, "Accelerator:Memory": memory})
    assert found is not None
    assert found.memory is None


def test_properties_of_the_site_s_own() -> None:
    specs = {"gpus": "1", "gpu:model": "A100", "Accelerator:Model": "other"}
    found = accelerators(specs, gpu_number="gpus", gpu_model="gpu:model")
    assert found == Accelerators("GPU", 1, model="A100")
    ib = offering_cloud.flavor("1", extra_specs={"net": "IB"})
    names = PropertyNames(infiniband="net", infiniband_value="ib")
    assert conversion.flavor(ib, names).has_infiniband
    assert not conversion.flavor(ib).has_infiniband


def attributes(text: str) -> Any:
    return conversion.image(offering_cloud.image("a", APPLIANCE_ATTRIBUTES=text), GLANCE).attributes


@pytest.mark.parametrize(
    "text",
    ['{:"hv:version"=>"1"}', "[", "[1]", '"x"', '{"a": NaN}', '{"a": 1e999}', "[" * 20_000, "null"],
)
def test_an_entry_that_is_no_json_costs_only_itself(text: str) -> None:
    assert attributes(text) == {}


def test_an_entry_is_kept_as_it_is() -> None:
    entry = {"eu.egi.cloud.image_ref": "p/i:1", "n": 7, "deep": {"list": [1, None, "ü"]}}
    assert attributes(json.dumps(entry)) == entry
    assert attributes('{"a": "half \\ud800"}') == {"a": "half ?"}


def test_versions_of_the_gpu_s_software() -> None:
    image = offering_cloud.image("a", gpu_driver="550", my_cuda="12.4")
    names = PropertyNames(image_gpu_cuda="my_cuda")
    found = conversion.image(image, GLANCE, names).attributes
    assert found == {"gpu_driver": "550", "gpu_cuda": "12.4"}


def test_the_url_of_an_image_keeps_glance_s_path() -> None:
    image = offering_cloud.image("a", file="/v2/images/a/file")
    assert conversion.image(image, GLANCE).file == f"{GLANCE}/v2/images/a/file"


def test_a_whole_image() -> None:
    entry = {"ad:base_mpuri": "https://m.example.org/base/", "hv:version": "2026.10", "n": 7}
    item = offering_cloud.image(
        "a",
        name="Ubuntu",
        file="/v2/images/a/file",
        architecture="x86_64",
        os_type="linux",
        os_distro="ubuntu",
        os_version="24.04",
        vmcatcher_event_dc_title="a title",
        APPLIANCE_ATTRIBUTES=json.dumps(entry),
    )
    assert conversion.image(item, GLANCE) == OfferedImage(
        id="a",
        name="Ubuntu",
        marketplace="https://m.example.org/a/",
        base="https://m.example.org/base/",
        description="a title",
        version="2026.10",
        architecture="x86_64",
        os_type="linux",
        os_distribution="ubuntu",
        os_version="24.04",
        file=f"{GLANCE}/v2/images/a/file",
        attributes=entry,
    )
    newer = {**item, "image_version": "7", "vmcatcher_event_dc_description": "words"}
    found = conversion.image(newer, GLANCE)
    assert (found.version, found.description) == ("7", "words")


def test_a_flavor_without_a_name() -> None:
    item = offering_cloud.flavor("1", name=None, **{"OS-FLV-EXT-DATA:ephemeral": 7})
    found = conversion.flavor(item)
    assert (found.name, found.ephemeral, found.is_public) == ("", 7, True)
    assert conversion.flavor(offering_cloud.flavor("1")).name == "flavor 1"
    none = offering_cloud.flavor("1", **{"OS-FLV-EXT-DATA:ephemeral": None})
    assert conversion.flavor(none).ephemeral == 0


def test_servers_by_state() -> None:
    listed = [
        offering_cloud.server(str(number), state, vcpus=number)
        for number, state in enumerate(("ACTIVE", "ERROR", "SUSPENDED", "SHUTOFF", "SHUTOFF"))
    ]
    assert conversion.servers(listed) == (ServerCounts(2, 1, 2, 10), [])
    del listed[4]["flavor"]["vcpus"]  # a Nova before 2.47
    assert conversion.servers(listed) == (ServerCounts(2, 1, 2, 6), [])
    assert conversion.servers(listed[:1]) == (ServerCounts(1, 0, 0, 0), [])


@pytest.mark.parametrize("spoiled", ["two", math.inf, math.nan, [2], {"cores": 2}])
def test_a_server_whose_cores_cannot_be_understood_is_counted(spoiled: object) -> None:
    listed = [offering_cloud.server(str(number)) for number in range(2)]
    listed[0]["flavor"]["vcpus"] = spoiled
    counts, (fault,) = conversion.servers(listed)
    assert counts == ServerCounts(2, 0, 0, 2)
    assert fault.startswith("server '0': ")
    listed[0]["flavor"] = spoiled
    assert conversion.servers(listed)[0].running == 2


def test_texts_are_bounded_and_an_endless_id_is_rejected() -> None:
    huge = "x" * 10_000_000
    found = conversion.image(offering_cloud.image("1", name=huge, marketplace=huge), "https://g")
    assert len(found.name) < 100_000
    flavor = offering_cloud.flavor("1", name=huge, extra_specs={huge: huge})
    made = conversion.flavor(flavor)
    assert len(made.name) + len(str(made.extra_specs)) < 300_000
    for convert in (conversion.flavor, lambda item: conversion.image(item, "https://g")):
        with pytest.raises(ValueError, match="its id has 10000000 characters"):
            convert({**flavor, "id": huge})
