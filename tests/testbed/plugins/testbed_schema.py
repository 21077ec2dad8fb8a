"""Runs management commands of a service one after the other, paying for its imports once.

usage: testbed_schema.py MODULE JSON       JSON: a list of argument lists for MODULE.main()
       testbed_schema.py neutron URL       Neutron's migrations do not run on SQLite; its models do

Each command has a fork of its own, because none of them expects another one before it in the same
process.
"""

import importlib
import json
import os
import sys
import traceback
from types import ModuleType

import testbed_sqlite  # noqa: F401


def run(module: ModuleType, arguments: list[str]) -> int:
    """Run one command; return its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.argv = [module.__name__, *arguments]
            status = module.main() or 0
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        except BaseException:  # noqa: BLE001  the parent reports the status, the log has the rest
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def create_neutron(url: str) -> None:
    """Create Neutron's tables."""
    import sqlalchemy
    from neutron.db.migration.models import head

    head.get_metadata().create_all(sqlalchemy.create_engine(url))


def main() -> int:
    """Do what the command line says; return the exit status of the command that failed, else 0."""
    if sys.argv[1] == "neutron":
        create_neutron(sys.argv[2])
        return 0
    module = importlib.import_module(sys.argv[1])
    for arguments in json.loads(sys.argv[2]):
        status = run(module, arguments)
        if status:
            print(f"failed with {status}: {sys.argv[1]} {arguments}", file=sys.stderr)
            return status
    return 0


sys.exit(main())
