"""The rules of the chain, spelt as `iptables -S` prints them, so that they can be compared."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from appliance.admin.firewall.targets import Target

_DNS = 53
_NEIGHBOURS = (135, 136)
"""ICMPv6 types that IPv6 cannot work without: neighbour solicitation, advertisement (RFC 4861)."""
_REFUSALS = {4: "icmp-admin-prohibited", 6: "icmp6-adm-prohibited"}


@dataclass(frozen=True, slots=True)
class Bridges:
    """Names of the bridges of the site's BDII, and of the chain for them."""

    prefix: str

    @property
    def chain(self) -> str:
        """Return the name of the chain."""
        return f"{self.prefix.upper()}-BDII"

    @property
    def public(self) -> str:
        """Return the bridge of the network that only the site's BDII is in, its way out."""
        return f"{self.prefix}-pub"

    @property
    def inner(self) -> str:
        """Return the bridge of the internal network that it shares with the resource's BDII."""
        return f"{self.prefix}-ldap"

    def jumps(self, forward: str) -> Mapping[str, Sequence[str]]:
        """Return the rules that jump to the chain, by the chain that they are in.

        ``forward`` is the chain that the engine reserves for the administrator's rules about
        forwarded packets. Packets to this host itself pass INPUT instead.
        """

        def jump(hook: str, bridge: str) -> str:
            return f"-A {hook} -i {bridge} -j {self.chain}"

        return {
            forward: [jump(forward, self.public)],
            "INPUT": [jump("INPUT", self.public), jump("INPUT", self.inner)],
        }


def rules(
    chain: str, version: int, addresses: Mapping[Target, Sequence[str]], *, resolvers: Sequence[str]
) -> list[str]:
    """Return the rules for an IP version: replies, the targets, DNS if it is needed, else reject.

    An allowed packet returns to the calling chain, so that the rules of the administrator and of
    the engine still apply to it.
    """
    start = f"-A {chain}"
    # Spelt and ordered as iptables -S prints them: egress compares the text.
    made = [f"{start} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"]
    if version == 6:  # noqa: PLR2004  of IP
        made += [
            f"{start} -p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN" for kind in _NEIGHBOURS
        ]
    for target in sorted(addresses):
        for address in _of_version(addresses[target], version):
            # The engine has already translated a port that it publishes on this host to the
            # container's address; "orig" matches the address before that.
            made.append(
                f"{start} -p tcp -m conntrack --ctorigdst {address} --ctorigdstport {target.port} "
                f"-m comment --comment {target.url} -j RETURN"
            )
    if any(not target.is_address for target in addresses):
        length = 32 if version == 4 else 128  # noqa: PLR2004  of IP
        for address in _of_version(resolvers, version):
            made += [
                f"{start} -d {address}/{length} -p {protocol} -m {protocol}"
                f" --dport {_DNS} -j RETURN"
                for protocol in ("udp", "tcp")
            ]
    # Rejected, not dropped: a connection then fails at once, with a reason.
    return [*made, f"{start} -j REJECT --reject-with {_REFUSALS[version]}"]


def addresses_in(present: Iterable[str], target: Target) -> list[str]:
    """Return the addresses that the present rules allow for a target."""
    words = [rule.split() for rule in present]
    return [
        rule[rule.index("--ctorigdst") + 1]
        for rule in words
        if target.url in rule and "--ctorigdst" in rule
    ]


def _of_version(addresses: Iterable[str], version: int) -> list[str]:
    found = [ipaddress.ip_address(address) for address in addresses]
    return [
        str(address) for address in found if address.version == version and not address.is_loopback
    ]
