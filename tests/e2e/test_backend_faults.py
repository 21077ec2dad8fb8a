"""`cloudkeeper-os` with a Glance that misbehaves, and when it is killed, stopped or overloaded."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from appliance.core.cloud import glance, session
from appliance.core.run.layout import Layout
from cloudkeeper.backend import settings, verdicts
from cloudkeeper.backend.errors import Failed
from cloudkeeper.model import Format
from cloudkeeper.wire import communicator_1x_pb2 as pb
from tests.e2e import images_cloud
from tests.e2e.images_backend import LIST, ONE, TWO, Backend, Client, Offer, started
from tests.e2e.images_cloud import FAULTY, Cloud
from tests.simulators.glance_faults import GlanceFaults

pytestmark = pytest.mark.glance

UPLOAD = r"PUT /v2/images/[^/]+/file"


@pytest.fixture(scope="module")
def proxy(cloud: Cloud) -> Iterator[GlanceFaults]:
    target = ("127.0.0.1", cloud.bed.layout.port("glance"))
    with GlanceFaults(target, cloud.bed.ca_file).serving() as proxy:
        cloud.route(proxy.url)
        yield proxy
        cloud.close_route()


@pytest.fixture(scope="module")
def running(
    cloud: Cloud, proxy: GlanceFaults, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    backend = Backend.create(
        tmp_path_factory.mktemp("site"), cloud, options=f"region_name = {FAULTY}"
    )
    with started(backend):
        yield backend


@pytest.fixture
def backend(cloud: Cloud, running: Backend, proxy: GlanceFaults) -> Backend:
    proxy.clear()
    cloud.empty()
    if running.process is None or running.process.poll() is not None:
        running.start()
    return running


@pytest.fixture
def client(backend: Backend) -> Client:
    return backend.client()


def big(backend: Backend, name: str = "big.raw", size: int = 8 * 2**20) -> Offer:
    path = backend.images / name
    path.write_bytes(random.Random(name).randbytes(size))
    return Offer(path, images_cloud.sha512sum(path), {"image": {"format": "RAW"}})


@pytest.mark.parametrize("request_line", ["POST /v2/images", UPLOAD, "PATCH .*", "GET /v2/images/"])
def test_a_busy_glance_is_retried(
    cloud: Cloud, backend: Backend, client: Client, proxy: GlanceFaults, request_line: str
) -> None:
    offer = big(backend)
    proxy.plan(request_line, status=503)
    assert client.run(("AddAppliance", offer.message())) == [("SUCCESS", "")]
    (row,) = cloud.rows()
    assert images_cloud.sha512sum(cloud.file(row.id)) == offer.sha512


def test_an_upload_is_retried_after_a_cut_connection(
    cloud: Cloud, backend: Backend, client: Client, proxy: GlanceFaults
) -> None:
    offer = big(backend)
    proxy.plan(UPLOAD, cut_after=3 * 2**20)
    assert client.run(("AddAppliance", offer.message())) == [("SUCCESS", "")]
    (row,) = cloud.rows()
    assert images_cloud.sha512sum(cloud.file(row.id)) == offer.sha512


@pytest.mark.parametrize("request_line", ["POST /v2/images", UPLOAD, "PATCH .*"])
def test_a_lost_answer_does_no_harm(
    cloud: Cloud, backend: Backend, client: Client, proxy: GlanceFaults, request_line: str
) -> None:
    offer = big(backend)
    proxy.plan(request_line, lose_answer=True)
    assert client.run(("AddAppliance", offer.message())) == [("SUCCESS", "")]
    (row,) = cloud.rows()
    assert (row.state, images_cloud.sha512sum(cloud.file(row.id))) == ("ACTIVE", offer.sha512)


@pytest.mark.parametrize(
    ("plan", "status"),
    [
        (("POST /v2/images", 500), "ERROR_RESOURCE_RETRIEVAL"),
        (("POST /v2/images", 403), "ERROR_USER_NOT_AUTHORIZED"),
        ((UPLOAD, 413), "ERROR_RESOURCE_RETRIEVAL"),
        (("PATCH .*", 403), "ERROR_USER_NOT_AUTHORIZED"),
    ],
)
def test_a_refusal_affects_one_image_and_leaves_nothing(
    cloud: Cloud,
    backend: Backend,
    client: Client,
    proxy: GlanceFaults,
    plan: tuple[str, int],
    status: str,
) -> None:
    offer = big(backend, size=2**20)
    client.run(("AddAppliance", offer.message(identifier=TWO)))
    before = cloud.rows()
    newer = big(backend, "newer.raw", size=2**20)
    proxy.plan(plan[0], status=plan[1], times=4 if plan[1] == 500 else 1)
    first, second = client.run(
        ("UpdateAppliance", newer.message(identifier=TWO)),
        ("AddAppliance", newer.message(vo="biomed")),
    )
    assert (first[0], second[0]) == (status, "SUCCESS")
    assert str(plan[1]) in first[1]
    assert cloud.rows("img-ops") == before
    assert cloud.files() == {row.id for row in cloud.rows()}


class Blocks:
    """Data as `Glance.upload` takes them."""

    is_repeatable = True

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __len__(self) -> int:
        return len(self.content)

    def __iter__(self) -> Iterator[bytes]:
        yield self.content


@pytest.mark.parametrize(
    ("disk_format", "is_safe", "words"),
    [
        ("qcow", True, "Glance does not accept the format qcow2 (Glance: 400 "),
        ("qcow2", True, "Glance does not recognise the file as qcow2 (Glance: 415 "),
        ("raw", False, "Glance takes the disk for unsafe (Glance: 415 "),
    ],
)
def test_what_this_glance_refuses_for_good(
    cloud: Cloud, backend: Backend, disk_format: str, is_safe: bool, words: str
) -> None:
    """F-M11: Glance's own texts are recognised; tests/unit/test_backend_calls.py has the others."""
    access = settings.load(backend.config, layout=Layout(backend.root), overrides={}).access
    door = glance.Glance(session.Cloud(access).project(cloud.projects["img-ops"]))
    image_id = str(uuid.uuid4())
    # A master boot record whose partition has a boot flag that no BIOS knows.
    record = bytes(446) + bytes([0x33, 0, 2, 0, 0xEE, 0, 3, 1]) + bytes(56) + b"\x55\xaa"
    content = bytes(2**16) if is_safe else record + bytes(2**16)

    def store() -> None:
        door.create({"id": image_id, "container_format": "bare", "disk_format": disk_format})
        door.upload(image_id, Blocks(content))

    with pytest.raises(glance.GlanceRefusal) as refused:
        store()
    said = verdicts.explain(refused.value, Format.QCOW2)
    assert isinstance(said, Failed)
    assert words in str(said)
    assert said.is_final


def _nonsense(_: bytes) -> bytes:
    return b"<html>try again later</html>"


def _in_a_circle(body: bytes) -> bytes:
    found = json.loads(body)
    return json.dumps(found | {"next": "/v2/images?limit=500"}).encode()


def _of_another_kind(body: bytes) -> bytes:
    found = json.loads(body)
    images = [image | {"created_at": "yesterday"} for image in found["images"]]
    return json.dumps(found | {"images": images}).encode()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 500}, "still answers 500"),
        (
            {"alter": _nonsense},
            "Glance answers 200 to a listing of images: <html>try again later</html>",
        ),
        (
            {"alter": _in_a_circle},
            "Glance's link to the next page of images leads to a page that was already read",
        ),
    ],
    ids=["500", "no JSON", "without end"],
)
def test_an_unreadable_project_affects_only_its_own_images(
    cloud: Cloud,
    backend: Backend,
    client: Client,
    proxy: GlanceFaults,
    fault: dict[str, Any],
    words: str,
) -> None:
    """F-S1, for projects: the run serves the others, and its record lists the failure."""
    offer = big(backend, size=2**20)
    proxy.plan(
        rf"GET /v2/images\?(owner={cloud.projects['img-ops']}|limit=500$)", times=99, **fault
    )
    bad, good = client.run(
        ("AddAppliance", offer.message()), ("AddAppliance", offer.message(vo="biomed"))
    )
    assert bad[0] != "SUCCESS"
    assert words in bad[1]
    assert good == ("SUCCESS", "")
    assert [row.state for row in cloud.rows()] == ["ACTIVE"]
    assert backend.record()["status"] == 1
    assert any(words in line for line in backend.record()["failures"])


def test_an_image_with_invalid_properties_is_reported_and_ignored(
    cloud: Cloud, backend: Backend, client: Client, proxy: GlanceFaults
) -> None:
    """F-S1, for images in the cloud: one record ended every run before it began."""
    offer = big(backend, size=2**20)
    client.run(("AddAppliance", offer.message(identifier=TWO)))
    before = cloud.rows()
    proxy.plan(r"GET /v2/images\?", times=99, alter=_of_another_kind)
    assert client.run(("AddAppliance", offer.message(vo="biomed"))) == [("SUCCESS", "")]
    assert cloud.rows("img-ops") == before
    [line] = [line for line in backend.record()["failures"] if before[0].id in line]
    assert "its properties are invalid: " in line
    assert "correct or delete it; until then it is ignored" in line


def test_a_run_without_an_end_is_recorded_as_such(backend: Backend, client: Client) -> None:
    """F-S2: the record of the last good run stayed."""
    client.call("PreAction")
    client.call("AddAppliance", big(backend, size=1024).message())
    assert backend.stop() == 0
    said = backend.record()
    assert said["status"] == 1
    assert said["failures"] == ["the backend was stopped before the frontend ended its run"]
    assert said["counts"]["added"] == 1


def test_data_with_another_checksum_in_glance_are_not_offered(
    cloud: Cloud, backend: Backend, client: Client, proxy: GlanceFaults
) -> None:
    def lie(body: bytes) -> bytes:
        found = json.loads(body)
        return json.dumps(found | {"os_hash_value": "0" * 128}).encode()

    proxy.plan(r"GET /v2/images/[0-9a-f-]{36}", alter=lie)
    ((status, message),) = client.run(("AddAppliance", big(backend).message()))
    assert status == "ERROR_RESOURCE_STATE"
    assert "sha512 0000000000000000…" in message.encode().decode("unicode_escape")
    assert cloud.rows() == []


def test_an_old_version_in_use_is_hidden(
    cloud: Cloud, backend: Backend, client: Client, proxy: GlanceFaults
) -> None:
    client.run(("AddAppliance", big(backend).message()))
    old = cloud.active()
    proxy.plan(f"DELETE /v2/images/{old.id}", status=409, times=2)
    assert client.run(("UpdateAppliance", big(backend, "newer.raw").message())) == [("SUCCESS", "")]
    states = {row.id: (row.state, row.os_hidden) for row in cloud.rows()}
    assert states.pop(old.id) == ("EOL", 1)
    assert list(states.values()) == [("ACTIVE", 0)]
    assert backend.record()["counts"]["still_in_use"] == 1
    assert backend.record()["status"] == 0
    client.run()
    assert old.id not in {row.id for row in cloud.rows()}


def test_killed_in_mid_upload_and_repaired(
    cloud: Cloud, backend: Backend, client: Client, proxy: GlanceFaults
) -> None:
    old = big(backend)
    client.run(("AddAppliance", old.message()))
    before = cloud.active()
    newer = big(backend, "newer.raw")
    fault = proxy.plan(UPLOAD, hold_after=4 * 2**20)
    client.call("PreAction")
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(client.call, "UpdateAppliance", newer.message())
        assert fault.reached.wait(30)
        states = {row.id: (row.state, row.status, row.os_hidden) for row in cloud.rows()}
        assert states.pop(before.id) == ("ACTIVE", "active", 0)
        assert list(states.values()) == [("STAGING", "saving", 1)]
        assert backend.stop(signal.SIGKILL) == -signal.SIGKILL
        assert pending.exception() is not None
    fault.release.set()
    backend.start()
    client = backend.client()
    client.call("PreAction")
    assert [(row.id, row.state) for row in cloud.rows()] == [(before.id, "ACTIVE")]
    assert client.call("UpdateAppliance", newer.message()) == ("SUCCESS", "")
    client.call("PostAction")
    (row,) = cloud.rows()
    assert (row.state, images_cloud.sha512sum(cloud.file(row.id))) == ("ACTIVE", newer.sha512)
    assert cloud.files() == {row.id}
    assert backend.record()["counts"]["orphans_collected"] == 1


def test_a_stop_lets_uploads_end(
    cloud: Cloud, backend: Backend, client: Client, proxy: GlanceFaults
) -> None:
    offer = big(backend)
    fault = proxy.plan(UPLOAD, hold_after=2**20)
    client.call("PreAction")
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(client.call, "AddAppliance", offer.message())
        assert fault.reached.wait(30)
        assert backend.process is not None
        backend.process.send_signal(signal.SIGTERM)
        fault.release.set()
        assert pending.result(60) == ("SUCCESS", "")
    assert backend.process.wait(30) == 0
    assert cloud.active().status == "active"


def test_a_second_stop_ends_uploads(
    cloud: Cloud, backend: Backend, client: Client, proxy: GlanceFaults
) -> None:
    offer = big(backend, size=64 * 2**20)
    fault = proxy.plan(UPLOAD, hold_after=2**20)
    client.call("PreAction")
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(client.call, "AddAppliance", offer.message())
        assert fault.reached.wait(30)
        assert backend.process is not None
        backend.process.send_signal(signal.SIGTERM)
        threading.Event().wait(0.5)
        backend.process.send_signal(signal.SIGTERM)
        threading.Event().wait(0.5)
        fault.release.set()
        assert pending.exception(60) is not None
    assert backend.process.wait(60) == 0
    assert cloud.rows() == []
    assert cloud.files() == set()


def test_a_frontend_that_disconnects_ends_its_upload(
    cloud: Cloud, backend: Backend, client: Client, proxy: GlanceFaults
) -> None:
    offer = big(backend, size=64 * 2**20)
    fault = proxy.plan(UPLOAD, hold_after=2**20)
    client.call("PreAction")
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(client.call, "AddAppliance", offer.message())
        assert fault.reached.wait(30)
        assert backend.channel is not None
        backend.channel.close()
        backend.channel = None
        assert pending.exception(30) is not None
    fault.release.set()
    again = backend.client()
    assert again.run(("AddAppliance", big(backend).message(identifier=TWO))) == [("SUCCESS", "")]
    deadline = threading.Event()
    for _ in range(100):
        if len(cloud.rows()) == 1:
            break
        deadline.wait(0.1)
    assert [row.properties["APPLIANCE_ID"] for row in cloud.rows()] == [TWO]


def test_two_calls_for_one_appliance(
    cloud: Cloud, backend: Backend, client: Client, proxy: GlanceFaults
) -> None:
    """The second one waits for the first, and finds the image complete."""
    offer = big(backend)
    fault = proxy.plan(UPLOAD, hold_after=2**20)
    client.call("PreAction")
    with ThreadPoolExecutor(2) as pool:
        pending = pool.submit(client.call, "AddAppliance", offer.message())
        assert fault.reached.wait(30)
        second = pool.submit(client.call, "AddAppliance", offer.message())
        assert client.call("AddAppliance", offer.message(identifier=TWO))[0] == "SUCCESS"
        assert not second.done()
        fault.release.set()
        assert [call.result(60)[0] for call in (pending, second)] == ["SUCCESS"] * 2
    assert len(cloud.rows()) == 2


def test_too_many_removals_are_refused(cloud: Cloud, backend: Backend, client: Client) -> None:
    offer = big(backend, size=1024)
    client.run(
        *(("AddAppliance", offer.message(identifier=f"image-{number}")) for number in range(6))
    )
    request = pb.ImageListIdentifier(image_list_identifier=LIST)
    ((status, message),) = client.run(("RemoveImageList", request))
    assert status == "ERROR_RESOURCE_STATE"
    assert message.startswith(f"image list {LIST}: 6 of its 6 images would be removed")
    assert "--allow-remove 6" in message
    assert len(cloud.rows()) == 6
    one_by_one = [
        (
            "RemoveAppliance",
            pb.Appliance(identifier=f"image-{n}", vo="ops", image_list_identifier=LIST),
        )
        for n in range(6)
    ]
    assert [status for status, _ in client.run(*one_by_one)] == ["SUCCESS"] * 3 + [
        "ERROR_RESOURCE_STATE"
    ] * 3
    client.call("PreAction", metadata=[("allow-remove", "6")])
    assert client.call("RemoveImageList", request) == ("SUCCESS", "")
    assert cloud.rows() == []


def test_orphans_of_another_backend_are_given_a_day(
    cloud: Cloud, backend: Backend, client: Client
) -> None:
    """A second backend on the same projects must not delete what the first one is uploading."""
    other = Backend.create(backend.root / "other", cloud)
    image_id = str(uuid.uuid4())
    orphan = {
        "APPLIANCE_ID": ONE, "APPLIANCE_IMAGE_LIST_ID": LIST, "APPLIANCE_VO": "ops",
        "APPLIANCE_STATUS": "STAGING",
        "id": image_id, "os_hidden": True, "name": "orphan",
        "APPLIANCE_BACKEND": f"somebody-else {image_id}",
    }  # fmt: skip
    cloud.door("img-ops").post("image", "/v2/images", orphan)
    with started(other) as second:
        second.call("PreAction")
    assert len(cloud.rows()) == 1
    database = sqlite3.connect(cloud.bed.layout.database("glance"))
    with database:
        database.execute(
            "update images set created_at = datetime('now', '-25 hours') where name = 'orphan'"
        )
    database.close()
    client.run()
    assert cloud.rows() == []
