"""The formats by name. Each is a pure function in a module of its own, loaded when it is chosen."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from cloud_info_provider.formats.published_cloud import PublishedCloud, Rendering

FORMATS = {
    "glue": "GLUE 2.0 in LDIF, for a BDII",
    "glue21json": "GLUE 2.1 in JSON, as EGI's information system reads it",
    "json": "the cloud as read, in JSON",
}
"""What ``--format`` accepts, each with its meaning."""
VALIDATION = "validation"
"""The format of ``--validate``, which ``--format`` does not accept."""
_MODULES = {
    "glue": "glue",
    "glue21json": "glue21json",
    "json": "listing",
    VALIDATION: "validation",
}


def renderer(name: str) -> Callable[[PublishedCloud], Rendering]:
    """Return the function that writes a cloud in a format."""
    module = import_module(f"cloud_info_provider.formats.{_MODULES[name]}")
    render: Callable[[PublishedCloud], Rendering] = module.render
    return render
