"""The flags of cloud-info-provider's releases, and those that are rejected or ignored here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain

from appliance.core import gocdb
from appliance.core.cloud import login
from cloud_info_provider import settings, site_file, vocabulary
from cloud_info_provider.account import RC_FILE
from cloud_info_provider.conversion import PropertyNames
from cloud_info_provider.ignored import (
    GRANTED_FLAGS,
    IGNORED_FLAGS,
    IGNORED_FLAGS_WITH_VALUE,
)
from cloud_info_provider.settings import ProviderSettings

# Seconds. Four attempts and those of one more login end before the BDII's time limit (300 s).
_TIMEOUT = 30

_NO_EFFECT = "has no effect here"
_OF_REFRESHER = (
    *("oidc_token_endpoint", "oidc_client_id", "oidc_client_secret", "oidc_refresh_token"),
)
_BUILT_IN = "formats are built in; choose one with --format"
_NO_AMS = "EGI removed this publication in 2025; choose another one with --publisher"
_OPENSTACK_ONLY = "this program reads OpenStack only"
# Flags whose effect would be missed, each with the reason.
_REJECTED_WITH_VALUE = {
    "template-dir": _BUILT_IN,
    "template-extension": _BUILT_IN,
    "os-system-scope": "projects are read; give the account the role reader in each of them",
    "os-endpoint-override": "one URL cannot be that of all services; correct the catalog",
    **dict.fromkeys(("os-endpoint", "os-url"), "Keystone knows the VOs: log in to it"),
    **dict.fromkeys(
        ("os-redirect-host", "os-redirect-port", "os-login-timeout"),
        "it is for a login with a browser; choose another one with --os-auth-type",
    ),
    "tls-ciphers": "OpenSSL's own choice is used",
    "tls-min-version": "it is 1.2 or newer in any case",
    **dict.fromkeys(
        ("ams-token", "ams-host", "ams-topic", "ams-project", "ams-cert", "ams-key"), _NO_AMS
    ),
    **dict.fromkeys(("on-auth", "on-rpcxml-endpoint", "rocci-template-dir"), _OPENSTACK_ONLY),
}
_REJECTED = {"rocci-remote-templates": _OPENSTACK_ONLY}
# Flags of OpenStack's clients with two names.
_OTHER_NAMES = {
    **{
        f"application_credential_{part}": (f"--os-application_credential_{part}",)
        for part in ("id", "name", "secret")
    },
    **{
        name: (f"--os-{name}",)
        for name in (
            *("oauth2_endpoint", "oauth2_client_id", "oauth2_client_secret"),
            *("auth_methods", "idp_otp_key"),
        )
    },
    "auth_type": ("--os-auth-plugin",),
    "code": ("--os-authorization-code",),
    "interface": ("--os-endpoint-type", "--endpoint-type"),
    "username": ("--os-user-name",),
}
_PROPERTIES = {
    "infiniband": "flavor property of InfiniBand",
    "infiniband_value": "value of that property that means that there is InfiniBand",
    "gpu_number": "flavor property of the number of GPUs",
    "gpu_memory": "flavor property of a GPU's memory (GB)",
    "gpu_virt_type": "flavor property of a GPU's kind of virtualization",
    "gpu_vendor": "flavor property of a GPU's vendor",
    "gpu_model": "flavor property of a GPU's model",
    "image_gpu_driver": "image property of the version of the GPU's driver",
    "image_gpu_cuda": "image property of the version of CUDA",
    "image_gpu_cudnn": "image property of the version of cuDNN",
}


def add(made: argparse._ArgumentGroup) -> None:
    """Add the flags, but for those that choose from a list of values."""
    _add_files(made)
    _add_content(made)
    _add_account(made)
    for name, reason in {**_REJECTED, **_REJECTED_WITH_VALUE}.items():
        nargs = 0 if name in _REJECTED else None
        made.add_argument(
            f"--{name}",
            dest="refused",
            action=_RejectFlag,
            nargs=nargs,
            const=reason,
            help=argparse.SUPPRESS,
        )
    for name in (*GRANTED_FLAGS, *IGNORED_FLAGS):
        made.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    for name in IGNORED_FLAGS_WITH_VALUE:
        made.add_argument(f"--{name}", help=argparse.SUPPRESS)


def without_effect(arguments: argparse.Namespace, configuration: ProviderSettings) -> Iterator[str]:
    """Yield a line for each flag that is given and has no effect."""
    for name, reason in {**IGNORED_FLAGS, **IGNORED_FLAGS_WITH_VALUE}.items():
        if getattr(arguments, name.replace("-", "_")):
            yield f"--{name}: {_NO_EFFECT}: {reason}"
    if not arguments.auth_refresher:
        for name in _OF_REFRESHER:
            if getattr(arguments, name):
                yield f"--{name.replace('_', '-')}: {_NO_EFFECT}: it belongs to --auth-refresher"
    for name in vocabulary.ACCOUNT_FLAGS:
        if getattr(arguments, f"os_{name}") and (reason := _unused(name, configuration)):
            yield f"--os-{name.replace('_', '-')}: {_NO_EFFECT}: {reason}"


def _unused(name: str, configuration: ProviderSettings) -> str:
    """Return why an option of the account has no effect; empty if it has one."""
    if configuration.offer is not None:
        return "--middleware static logs in nowhere"
    if name in vocabulary.COMMON_FLAGS:
        return ""
    own = [share.account for share in configuration.shares if share.account]
    types = {account.access.auth_type for account in (configuration.account, *own)}
    for option in chain.from_iterable(map(login.options, types)):
        if name in (option.name, *option.aliases):
            return ""
    return f"{' and '.join(sorted(types))} {'has' if len(types) == 1 else 'have'} no such option"


class _RejectFlag(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(f"{self.option_strings[0]}: {self.const}")


def _add_files(made: argparse._ArgumentGroup) -> None:
    made.add_argument(
        "site_config",
        nargs="?",
        metavar="SITE_YAML",
        help="description of the site and its VOs; as --yaml-file",
    )
    made.add_argument(
        "--yaml-file",
        "--yaml",
        metavar="PATH",
        help=f"description of the site and its VOs (default: {settings.YAML_FILES[0]})",
    )
    made.add_argument(
        "--rc-file",
        metavar="PATH",
        help=f"account: OS_… variables in shell form, never executed (default: {RC_FILE})",
    )
    made.add_argument(
        "--glite-site-info-static",
        metavar="PATH",
        help="file whose SITE_NAME is the name of a site that the description does not name"
        f" (default: {site_file.SITE_CFG})",
    )
    made.add_argument(
        "--gocdb-url",
        metavar="URL",
        default=gocdb.URL,
        help="public interface of GOCDB, asked once a day for the id of the endpoint; empty: none"
        f" (default: {gocdb.URL})",
    )


def _add_content(made: argparse._ArgumentGroup) -> None:
    made.add_argument(
        "--select-flavors",
        choices=("all", "public", "private"),
        default="all",
        help="flavors to publish: all, public or private (default: all)",
    )
    made.add_argument(
        "--all-images", action="store_true", help="publish images without a marketplace entry too"
    )
    made.add_argument(
        "--only-appdb-images",
        action="store_true",
        help="publish no image without a marketplace entry",
    )
    made.add_argument(
        "--site-in-suffix",
        action="store_true",
        help="print the entries below that of the site, GLUE2DomainID=NAME; for the BDII of a site"
        " that runs this program itself",
    )
    made.add_argument(
        "--full-bdii-ldif",
        action="store_true",
        help="print the entries of the site and of its BDII too, as the section site describes"
        " them, and --site-in-suffix",
    )
    made.add_argument(
        "--exit-on-share-errors",
        action="store_true",
        help="print nothing if a VO cannot be read (default: print the other VOs)",
    )
    for field in fields(PropertyNames):
        name, default = field.name.replace("_", "-"), field.default
        flag = f"--property-{name}" if name.startswith("image-") else f"--property-flavor-{name}"
        made.add_argument(
            flag,
            dest=field.name,
            default=default,
            metavar="VALUE" if name.endswith("-value") else "NAME",
            help=f"{_PROPERTIES[field.name]} (default: {default})",
        )
    made.add_argument(
        "--extra-specs-infiniband-key",
        dest="infiniband",
        type="aggregate_instance_extra_specs:{}".format,
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="as --property-flavor-infiniband, after aggregate_instance_extra_specs: in the name",
    )
    made.add_argument(
        "--extra-specs-infiniband-value",
        dest="infiniband_value",
        default=argparse.SUPPRESS,
        metavar="VALUE",
        help="as --property-flavor-infiniband-value",
    )
    made.add_argument(
        "--auditor-role-cloud",
        metavar="NAME",
        help="cloud of clouds.yaml with the account of EGI's auditor; publish whether it has its"
        " role",
    )


def _add_account(made: argparse._ArgumentGroup) -> None:
    made.add_argument(
        "--insecure", action="store_true", help="accept any certificate (for tests only)"
    )
    made.add_argument(
        "--timeout",
        "--http-timeout",
        type=_seconds,
        default=_TIMEOUT,
        metavar="SECONDS",
        help=f"seconds to wait for an answer of the cloud, 1 to 3600 (default: {_TIMEOUT})",
    )
    made.add_argument(
        "--os-cloud", metavar="NAME", help="cloud of clouds.yaml that has the account"
    )
    for name in vocabulary.ACCOUNT_FLAGS:
        made.add_argument(
            f"--os-{name.replace('_', '-')}",
            *_OTHER_NAMES.get(name, ()),
            metavar="TEXT",
            help=f"use instead of OS_{name.upper()}",
        )
    made.add_argument(
        "--auth-refresher",
        choices=("oidcrefresh", "oidcvorefresh"),
        help="get access tokens with a refresh token: one for all VOs, or one for each",
    )
    for name, words in (
        ("token-endpoint", "URL at which the issuer gives tokens"),
        ("client-id", "client at the issuer"),
        ("client-secret", "secret of that client; empty for a public one"),
        ("refresh-token", "refresh token; better in a file, see --oidc-credentials-path"),
    ):
        made.add_argument(f"--oidc-{name}", metavar="TEXT", help=words)
    scopes = "openid email profile"
    made.add_argument(
        "--oidc-scopes",
        metavar="TEXT",
        default=scopes,
        help=f"scopes to ask the issuer for (default: {scopes})",
    )
    made.add_argument(
        "--oidc-credentials-path",
        metavar="DIR",
        help="directory with a folder for each VO, in which each file holds one option of the VO's"
        " account: client_id, client_secret, refresh_token, password …",
    )


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 3600:  # noqa: PLR2004  an hour
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 3600")
    return int(text)
