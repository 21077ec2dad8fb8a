"""Serves one WSGI application over TLS, on one address, with one process of several threads.

usage: testbed_serve.py JSON               JSON: module, bind, threads, certificate, key, log,
access_log, arguments
"""

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication


class Server(BaseApplication):
    """Gunicorn, told everything by us and nothing by its command line."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        super().__init__()

    def load_config(self) -> None:
        settings = {
            "bind": self.options["bind"],
            "certfile": self.options["certificate"],
            "keyfile": self.options["key"],
            "workers": 1,
            "threads": self.options["threads"],
            "worker_class": "gthread",
            "timeout": 600,
            "keepalive": 15,  # a thread may be held as long by a client that says nothing
            "graceful_timeout": 2,
            "errorlog": self.options["log"],
            "accesslog": self.options["access_log"],
            "access_log_format": '%(t)s "%(r)s" %(s)s %(B)s %(D)s "%(a)s"',
            "capture_output": True,
            "proc_name": self.options["module"],
            "limit_request_line": 0,
            "control_socket_disable": True,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[..., Any]:
        # Nova, Neutron and Cinder read the command line when they are imported.
        sys.argv = [self.options["module"], *self.options["arguments"]]
        import testbed_sqlite  # noqa: F401

        return importlib.import_module(self.options["module"]).application


Server(json.loads(sys.argv.pop(1))).run()
