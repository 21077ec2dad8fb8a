"""A real cloud and a real broker on loopback, for tests and for the demo.

    testbed = Testbed(Path(".cache/testbed/default"), 25000)
    testbed.up()
    seed = testbed.seed()

or, from the command line, ``python -m tests.testbed --help``.
"""

from tests.testbed.layout import CLOUD_SERVICES, SERVICES
from tests.testbed.pki import Authority, Credential
from tests.testbed.seed import Seed
from tests.testbed.testbed import Testbed

__all__ = ["CLOUD_SERVICES", "SERVICES", "Authority", "Credential", "Seed", "Testbed"]
