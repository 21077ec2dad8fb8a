"""`cloudkeeper` with `backend: endpoint: direct`: the backend in its own process.

The same run goes through gRPC and through direct mode, each against a cloud of its own; the images,
their properties and the records of both programs must be equal. Image server, Keystone and Glance
are simulators, all between them is ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core.run import lock
from cloudkeeper.backend.calls import Servicer
from cloudkeeper.cmds import direct
from cloudkeeper.cmds.direct_connection import CallContext, DirectConnection
from cloudkeeper.frontend.backend_client import BackendClient, BackendFailure
from cloudkeeper.frontend.stream import OfferedStream, Received
from cloudkeeper.model import Format
from cloudkeeper.wire import image_socket
from tests.e2e.images_frontend import PROGRAM
from tests.simulators import image_server
from tests.simulators.image_server import ImageServer
from tests.simulators.openstack import Answer
from tests.testbed.pki import Authority
from tests.unit.image_site import RAW, ImageSite, authority, made, site, web  # noqa: F401

# ruff: noqa: F811  the fixtures are those of the site

pytestmark = pytest.mark.programs("openssl")

TOP = Path(__file__).parents[2]


@pytest.mark.long
def test_a_run_has_the_same_result_as_through_grpc(
    site: ImageSite, web: ImageServer, authority: Authority
) -> None:
    """Add, nothing changed, update, metadata, failure, removal."""
    with made(site.root / "grpc", web, authority) as other:
        both = ((site, site.run), (other, other.through_grpc))
        other_raw = RAW[:-1] + b"2"
        steps: list[Callable[[], list[dict[str, Any]]]] = [
            lambda: [site.image(1), site.image(2, other_raw), site.image(3, RAW[:1024])],
            lambda: [site.image(1), site.image(2, other_raw), site.image(3, RAW[:1024])],
            lambda: [
                site.image(1, RAW[:-1] + b"!", hv__version="2"),
                site.image(2, other_raw, dc__title="renamed"),
                site.image(3, RAW[:1024], sl__checksum__sha512="0" * 128, hv__version="3"),
            ],
            lambda: [site.image(1, RAW[:-1] + b"!", hv__version="2")],
        ]
        for step in steps:
            found = []
            site.publish(*step())
            for each, start in both:
                done = start("sync", "--json")
                document = json.loads(done.stdout)
                records = [each.record("cloudkeeper"), each.record("cloudkeeper-os")]
                text = json.dumps([done.returncode, document, records])
                for name in (f"backend {other.backend.endpoint}", "backend direct"):
                    text = text.replace(name, "backend")
                found.append((json.loads(text), each.stored()))
            assert found[0] == found[1]
        assert site.glance.shown() == ["Image 1 [Debian/12/KVM]"]
    assert list((site.root / "images").iterdir()) == []


def test_other_verbs_have_the_same_output(
    site: ImageSite, web: ImageServer, authority: Authority
) -> None:
    with made(site.root / "grpc", web, authority) as other:
        site.publish(site.image(1))
        assert (site.run("sync").returncode, other.through_grpc("sync").returncode) == (0, 0)
        site.publish(site.image(1, dc__title="renamed"), site.image(2))
        for verb in ("plan", "gc"):
            found = [
                (done.returncode, done.stdout.replace(str(other.root), str(site.root)))
                for done in (site.run(verb, "--json"), other.through_grpc(verb, "--json"))
            ]
            assert found[0] == found[1]
        shown = [
            json.loads(done.stdout)["images"]
            for done in (site.run("status", "--json"), other.through_grpc("status", "--json"))
        ]
        assert shown[0] == shown[1]
        assert len(shown[0]) == 1


@pytest.mark.parametrize("way", ["run", "through_grpc"])
def test_images_change_hands_and_go_back(site: ImageSite, way: str) -> None:
    """One patch each way and no upload, and the image is as it was; both records are written."""
    before = dict(catch_all_image(site))
    start = getattr(site, way)
    for verb in ("import", "release"):
        site.glance.requests.clear()
        shown = start(verb, "registry.egi.eu/egi_vm_images", "--dry-run", "--json")
        assert json.loads(shown.stdout)["images"] == [f"VO ops: {UBUNTU}, atrope-catchall"]
        assert {line.split()[0] for line in site.glance.requests} == {"GET"}
        site.glance.requests.clear()
        done = start(verb, UBUNTU, "--yes")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "1 images, 1 changed, 0 left as they are"
        writing = [line for line in site.glance.requests if not line.startswith("GET")]
        assert writing == ["PATCH /v2/images/7"]
        assert site.record("cloudkeeper-os")["status"] == 0
        (image,) = site.glance.images.values()
        assert ("APPLIANCE_BACKEND" in image, image["tags"] == []) == (verb == "import",) * 2
    assert image == before


@pytest.mark.parametrize("verb", ["import", "release"])
def test_images_do_not_change_hands_beside_a_service(site: ImageSite, verb: str) -> None:
    """F-H2, the kind: the lock is looked at before anything changes."""
    catch_all_image(site)
    if verb == "release":
        assert site.run("import", UBUNTU, "--yes").returncode == 0
        site.glance.requests.clear()
    with holding(site.state / "lock"):
        done = site.run(verb, UBUNTU, "--yes")
    assert done.returncode == 3
    assert "another cloudkeeper-os, or cloudkeeper in direct mode, uses it" in done.stderr
    assert {line.split()[0] for line in site.glance.requests} == {"GET"}


def test_a_manager_that_still_writes_keeps_its_images_in_direct_mode(site: ImageSite) -> None:
    image = catch_all_image(site)
    image["updated_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    done = site.run("import", UBUNTU, "--yes")
    assert (done.returncode, image["tags"]) == (1, ["atrope-catchall"])
    assert "0 changed, 1 left as they are" in done.stdout


UBUNTU = "egi_vm_images/ubuntu:24.04"


def catch_all_image(site: ImageSite) -> dict[str, Any]:
    """Configure a registry, and put one image of EGI's catch-all into Glance; return it."""
    (site.root / "etc/cloudkeeper").mkdir(parents=True)
    (site.root / "etc/cloudkeeper/sources.yaml").write_text(
        "egi:\n  type: harbor\n  registry_host: registry.egi.eu\n"
        "  project: egi_vm_images\n  vos: [ops]\n"
    )
    data = b"the disk that the registry has"
    long_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 7 * 3600))
    site.glance.files["7"] = data
    site.glance.images["7"] = {
        "id": "7",
        "owner": "one",
        "status": "active",
        "visibility": "private",
        "os_hidden": False,
        "name": f"registry.egi.eu {UBUNTU}",
        "tags": ["atrope-catchall"],
        "min_ram": 0,
        "created_at": long_ago,
        "updated_at": long_ago,
        "appdb_id": f"registry.egi.eu/{UBUNTU}-sha256:{'0' * 64}",
        "image_hash": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "size": len(data),
        "os_hash_algo": "sha512",
        "os_hash_value": "5" * 128,
        "APPLIANCE_ATTRIBUTES": json.dumps({"eu.egi.cloud.image_ref": UBUNTU}),
    }
    return site.glance.images["7"]


def test_reading_writes_nothing_and_needs_no_lock(site: ImageSite) -> None:
    site.publish(site.image(1))
    done = site.run("plan")
    assert done.returncode == 0, done.stderr
    assert "1 change" in done.stdout
    assert not site.state.exists()
    assert not (site.root / "var/lib/fedcloud/runs/cloudkeeper-os.json").exists()
    assert {line.split()[0] for line in site.glance.requests} == {"GET"}
    with holding(site.state / "lock"):
        assert site.run("plan").returncode == 0


@contextlib.contextmanager
def holding(path: Path) -> Iterator[None]:
    """Hold a lock in another process: one process does not exclude itself."""
    code = (
        "import sys, pathlib; from appliance.core.run import lock\n"
        "with lock.hold(pathlib.Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield


def test_a_service_beside_it_is_one_line(site: ImageSite) -> None:
    site.publish(site.image(1))
    with holding(site.state / "lock"):
        done = site.run("sync")
    assert done.returncode == 3
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("cloudkeeper: ")]
    assert f"{site.state}/lock: another cloudkeeper-os, or cloudkeeper in direct mode" in line
    assert "systemctl disable --now cloudkeeper-os" in line
    assert site.record("cloudkeeper")["failures"] == [line.removeprefix("cloudkeeper: ")]
    assert site.glance.images == {}


def test_the_lock_keeps_a_service_away_while_it_runs(site: ImageSite) -> None:
    seen: list[str] = []

    def look(method: str, path: str) -> Answer | None:
        if method == "PUT" and path.endswith("/file"):
            code = "import sys, pathlib; from appliance.core.run import lock; "
            code += "print(lock.holder(pathlib.Path(sys.argv[1])))"
            command = [sys.executable, "-c", code, str(site.state / "lock")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seen.append(done.stdout)
        return None

    site.glance.fault = look
    site.publish(site.image(1))
    assert site.run("sync").returncode == 0
    assert "running since" in seen[0]
    assert lock.holder(site.state / "lock") == ""


def test_the_backend_limits_removals_as_ever(site: ImageSite) -> None:
    """The guard is the backend's, and what an administrator confirms reaches it."""
    site.publish(*(site.image(number, RAW[:512] + bytes([number])) for number in range(1, 9)))
    assert site.run("sync").returncode == 0
    site.backend.configure("removals = none")
    site.publish(site.image(1, RAW[:512] + b"\x01"))
    done = site.run("sync", "--allow-remove", "7")
    assert done.returncode == 1
    assert "removals = none: nothing is removed or hidden" in done.stderr
    assert len(site.glance.shown()) == 8
    site.backend.configure()
    assert site.run("sync", "--allow-remove", "7").returncode == 0
    assert len(site.glance.shown()) == 1


def test_missing_extra_is_one_line(site: ImageSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "NEEDED", (*direct.NEEDED, "no_such_module"))
    site.publish(site.image(1))
    for flags in ([], ["--check-config"]):
        done = site.run("sync", *flags)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(
            f"cloudkeeper: {site.root}/cloudkeeper.yml:10: [cloudkeeper.backend]"
        )
        assert "endpoint: direct: cloudkeeper-os is not installed here (there is no no_such" in line
        assert "install the extras cloudkeeper and cloudkeeper-os into one environment" in line


def test_modules_that_are_looked_for_are_those_of_the_extra() -> None:
    """An extra that grows must be looked for, too."""
    extras = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [
        {line.partition(">")[0].partition("<")[0] for line in extras[name]}
        for name in ("cloudkeeper-os", "cloudkeeper")
    ]
    modules = {name.removeprefix("python-").replace(".", "_") for name in names[0] - names[1]}
    assert modules - {"grpcio-health-checking"} == set(direct.NEEDED)  # direct mode serves no gRPC


@pytest.mark.parametrize("verb", ["sync", "status"])
def test_errors_of_the_backends_file_have_its_lines(site: ImageSite, verb: str) -> None:
    site.backend.configure("image_visibility = everyone")
    done = site.run(verb, "--check-config")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{site.root}/cloudkeeper-os.conf:4: image_visibility: 'everyone'" in line


def test_the_check_shows_the_backend(site: ImageSite) -> None:
    """A port of 0.9 needs no certificates, because nobody listens."""
    site.backend.configure("grpc_port = 50051")
    done = site.run("sync", "--check-config")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("backend:")]
    assert f"direct: {site.root}/cloudkeeper-os.conf, {site.glance.cloud.url}/v3 as" in line


def test_another_image_directory_is_one_line(site: ImageSite) -> None:
    text = (site.root / "cloudkeeper-os.conf").read_text()
    changed = text.replace(f"image_dir = {site.root}/images", f"image_dir = {site.root}/other")
    (site.root / "cloudkeeper-os.conf").write_text(changed)
    done = site.run("sync")
    assert done.returncode == 2
    assert f"[DEFAULT] image_dir: {site.root}/other does not hold the image-dir" in done.stderr
    assert "write one directory in both files" in done.stderr


def test_a_cloud_that_refuses_the_login_ends_the_run(site: ImageSite) -> None:
    site.publish(site.image(1))
    site.glance.fault = lambda *_: Answer(403, {})
    done = site.run("sync")
    assert done.returncode == 3
    assert "backend direct: PreAction: " in done.stderr
    assert "Traceback" not in done.stderr


@contextlib.contextmanager
def program(site: ImageSite, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Start a sync as a program."""
    command = [str(PROGRAM), "sync", *site.configure(), *flags]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["1", "2"])
def test_sigterm_ends_an_upload_and_leaves_nothing(site: ImageSite, parallel: str) -> None:
    """The incomplete image goes, and both records say why."""
    size = 50 * 2**20
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
    site.publish(site.image(1, hv__size=str(size)))
    site.web.put("/1.img", image_server.Dripping(head + RAW + bytes(4 * 2**20), bytes(1024)))
    with program(site, "--parallel-transfers", parallel) as process:
        wait_for(lambda: any("POST /v2/images" in one for one in site.glance.requests))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert "cloudkeeper: interrupted; run it again" in errors
    assert "Traceback" not in errors
    assert site.glance.images == {}
    assert site.record("cloudkeeper")["status"] == 3
    (failure,) = site.record("cloudkeeper-os")["failures"]
    assert "; nothing was stored" in failure
    assert list((site.root / "images").iterdir()) == []


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Slow(Servicer):
    """A servicer that waits in each call until it is cancelled, or released."""

    def __init__(self, released: threading.Event, *, heeds: bool) -> None:
        self.stopping = threading.Event()
        self.released, self.heeds = released, heeds
        self.begun = threading.Event()

    def PostAction(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.begun.set()
        while not self.released.wait(0.01) and (context.is_active() or not self.heeds):
            pass
        context.set_trailing_metadata((("status", "SUCCESS"),))
        return request

    def close(self) -> None:
        pass


class Unlocked:
    """An owner without a state directory."""

    held = contextlib.nullcontext


def client(servicer: Servicer) -> BackendClient:
    owner: Any = Unlocked()
    return BackendClient(DirectConnection(servicer, owner))


def test_a_call_that_is_cancelled_fails() -> None:
    servicer = Slow(threading.Event(), heeds=True)
    failures: list[str] = []
    with client(servicer) as backend:

        def end() -> None:
            with pytest.raises(BackendFailure) as caught:
                backend.end()
            failures.append(str(caught.value))

        thread = threading.Thread(target=end)
        thread.start()
        assert servicer.begun.wait(10)
        backend.cancel()
        thread.join(10)
    assert failures == ["backend direct: PostAction was interrupted"]


def test_a_call_beyond_its_deadline_fails() -> None:
    released = threading.Event()
    owner: Any = Unlocked()
    connection = DirectConnection(Slow(released, heeds=False), owner)
    request: Any = None
    with pytest.raises(BackendFailure, match="backend direct: PostAction did not finish in time"):
        connection.call("PostAction", request, deadline=timedelta(seconds=0.05))
    released.set()


def test_a_bug_in_a_call_is_a_failure_of_the_call() -> None:
    servicer = Slow(threading.Event(), heeds=True)
    owner: Any = Unlocked()
    connection = DirectConnection(servicer, owner)
    request: Any = None
    with pytest.raises(BackendFailure, match="NoSuchCall failed: AttributeError: "):
        connection.call("NoSuchCall", request, deadline=timedelta(seconds=5))


def test_a_context_ends_with_its_deadline() -> None:
    assert CallContext((), deadline=timedelta(seconds=60)).is_active()
    assert not CallContext((), deadline=timedelta(0)).is_active()
    assert CallContext((), deadline=timedelta(0)).peer() == "direct:"


@pytest.mark.long
def test_a_second_sigterm_ends_it_at_once(site: ImageSite) -> None:
    """The cloud does not answer: the first signal waits for it, within a limit."""
    asked, released = threading.Event(), threading.Event()

    def hang(method: str, path: str) -> Answer | None:
        del method, path
        asked.set()
        released.wait(120)
        return None

    site.glance.fault = hang
    site.publish(site.image(1))
    try:
        with program(site) as process:
            assert asked.wait(120)
            for _ in range(2):
                process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
            _, errors = process.communicate(timeout=60)
            assert not released.is_set()
    finally:
        released.set()
    assert process.returncode == 3, errors
    assert "Traceback" not in errors
    assert site.record("cloudkeeper")["status"] == 3


def test_an_offer_is_for_the_right_password_and_once(tmp_path: Path) -> None:
    """Another caller, and a second one, get nothing."""
    path = tmp_path / "one.sock"
    received = Received("one", len(RAW), RAW[: 2**20], iter([RAW[2**20 :]]))
    offered = OfferedStream(received, Format.RAW)
    with offered.serving(path, checksum="", uri="") as data:
        assert (
            image_socket.taken_here(tmp_path / "other.sock", data.username, data.password) is None
        )
        assert image_socket.taken_here(path, data.username, data.password[1:]) is None
        blocks = image_socket.taken_here(path, data.username, data.password)
        assert blocks is not None
        assert b"".join(blocks) == RAW
        assert image_socket.taken_here(path, data.username, data.password) is None
    assert image_socket.taken_here(path, data.username, data.password) is None


def test_a_download_goes_on_over_new_connections(site: ImageSite) -> None:
    site.publish(site.image(1))
    site.web.put("/1.img", image_server.Ranged(RAW, cut=300_000))
    done = site.run("sync")
    assert done.returncode == 0, done.stderr
    assert list(site.glance.files.values()) == [RAW]
    assert site.web.asked("/1.img") == 7


def test_a_download_that_fails_is_the_reason(site: ImageSite) -> None:
    """The failure is the source's, and the image that has begun goes."""
    site.publish(site.image(1))
    versions = [
        image_server.Ranged(RAW, cut=1_500_000),
        image_server.Ranged(RAW[::-1], etag='"v2"'),
    ]
    site.web.put("/1.img", lambda number: versions[min(number, 1)])
    done = site.run("sync")
    assert done.returncode == 1
    (failure,) = site.record("cloudkeeper")["failures"]
    assert site.web.url("/1.img") in failure
    assert 'has another file now: its ETag is "v2", and was "v1"' in failure
    assert site.glance.images == {}
