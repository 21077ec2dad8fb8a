"""The committed gRPC code is what the generator makes of the .proto."""

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PROTO, SECOND = (f"cloudkeeper/wire/communicator_{number}x.proto" for number in (1, 2))


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("stubs")
    outputs = [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", str(TOP), *outputs, PROTO],
        check=True,
        cwd=TOP,
    )
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", str(TOP), *outputs[:2], SECOND],
        check=True,
        cwd=TOP,
    )
    return into / "cloudkeeper" / "wire"


@pytest.mark.parametrize(
    "name",
    [
        "communicator_1x_pb2.py",
        "communicator_1x_pb2.pyi",
        "communicator_1x_pb2_grpc.py",
        "communicator_2x_pb2.py",
        "communicator_2x_pb2.pyi",
    ],
)
def test_generated_code_is_committed_as_generated(generated: Path, name: str) -> None:
    committed = (TOP / "cloudkeeper" / "wire" / name).read_text()
    assert (generated / name).read_text() == committed, "run scripts/stubs"
