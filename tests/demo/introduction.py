"""Prints, before anything is installed, what the demo will do; runs on a bare Python."""

from __future__ import annotations

import argparse
import sys

FLOWS = ("images", "information", "accounting")

HELP = """\
usage: scripts/demo [--containers] [--keep] [--clean] [--state DIR] [FLOW ...]

Turns signed image lists and a registry into images of a real OpenStack, reads by LDAP at site level
what that cloud offers, and accounts for its servers, volumes, addresses and GPUs in signed messages
over a real broker. An independent count checks every number.

  FLOW          images, information or accounting; several, or all when none is named
  --containers  run the programs in the shipped images by the shipped compose file, in a Docker
                engine of the demo's own (Debian packages docker.io, docker-compose, iproute2,
                mmdebstrap, tinyproxy-bin; only root can)
  --keep        leave cloud and broker running at the end, and print commands to paste
  --clean       remove what the demo made, and stop
  --state       directory for the demo's cloud and site (default: .cache/demo of this checkout)

Exit status: 0 when every number is equal, 1 when one differs, 2 for a wrong command line, 3 when
something failed.
"""

INTRODUCTION = """\
This demo runs on this machine only, on loopback, in .cache/ of this checkout, with its table in
report.json beside it. It starts and touches no service of yours.

  real        Keystone 30, Glance 33, Placement 16, Nova 34, Neutron 29, Cinder 29 over TLS;
              ActiveMQ 5.17 with client certificates; slapd 2.5; a certificate authority and host
              certificates made for this run; our programs
              {programs}
  stand-in    the hypervisor (Nova's fake driver: servers exist, nothing boots), the network
              agents, the volume backend; the publisher of image lists is a web server of the
              demo, Harbor's API before docker-registry a simulator; the accounting repository is
              our own ssmreceive
  needs       Python 3.11 with its venv (Debian's python3, python3-venv), about {disk} of disk,
              2 GB of memory; Debian packages activemq, docker-registry, glue-schema,
              ldap-utils, openssl, qemu-utils, slapd{packages};
              packages from the Python package index
  takes       {time}
"""
_INSTALLED = {
    "programs": "as they are installed",
    "disk": "1 GB",
    "packages": " (installed when you are root)",
    "time": "some minutes the first time, about a minute and a half afterwards, one flow alone\n"
    "              about a minute; longer where others keep the processor busy",
}
_IN_CONTAINERS = {
    "programs": "in the shipped images, by the shipped compose file, in a Docker engine of its own",
    "disk": "4 GB",
    "packages": ",\n              docker.io, docker-compose, iproute2, mmdebstrap, tinyproxy-bin "
    "(installed for you)",
    "time": "some minutes the first time, two of them for the images; about two and a half\n"
    "              afterwards",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of what the demo takes."""
    arguments = argparse.ArgumentParser(
        prog="scripts/demo", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False
    )
    arguments.add_argument("flows", nargs="*")
    arguments.add_argument("--keep", action="store_true")
    arguments.add_argument("--clean", action="store_true")
    arguments.add_argument("--containers", action="store_true")
    arguments.add_argument("--state")
    return arguments


def main(arguments: list[str]) -> int:
    """Print the introduction, or the help; return 2 for arguments that the demo does not have."""
    if "--help" in arguments or "-h" in arguments:
        print(HELP)
        return 0
    try:
        chosen = parser().parse_args(arguments)
    except SystemExit:
        return 2
    if unknown := [flow for flow in chosen.flows if flow not in FLOWS]:
        print(
            f"scripts/demo: no flow {unknown[0]!r}; there are {', '.join(FLOWS)}", file=sys.stderr
        )
        return 2
    if not chosen.clean:
        print(
            INTRODUCTION.format(**(_IN_CONTAINERS if chosen.containers else _INSTALLED)), flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
