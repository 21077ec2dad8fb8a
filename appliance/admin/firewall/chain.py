"""Rules of the chain, as `iptables -S` prints them, so that what is there can be compared with what must be there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from appliance.admin.firewall.targets import Target

_DNS = 53
_NEIGHBOURS = (135, 136)
"""ICMPv6 types without which no IPv6 works at all (RFC 4861): neighbour solicitation, advertisement."""
_REFUSALS = {4: "icmp-admin-prohibited", 6: "icmp6-adm-prohibited"}


@dataclass(frozen=True, slots=True)
class Bridges:
    """Names in the kernel of the networks that the public BDII is in, and of the chain for them."""

    prefix: str

    @property
    def chain(self) -> str:
        """Return the name of the chain."""
        return f"{self.prefix.upper()}-BDII"

    @property
    def public(self) -> str:
        """Return the bridge of the network that only the public BDII is in: its way out."""
        return f"{self.prefix}-pub"

    @property
    def inner(self) -> str:
        """Return the bridge of the network where it meets the resource's BDII; the engine lets nothing out of it."""
        return f"{self.prefix}-ldap"

    def jumps(self, forward: str) -> Mapping[str, Sequence[str]]:
        """Return the rules that lead into the chain, by the chain that they are in.

        ``forward`` is where the engine leaves room for others' rules about what passes through this
        host. What goes to this host itself does not come by there.
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
    """Return the rules for IPv4 or IPv6: answers, the targets, DNS where it is needed, and nothing else.

    A packet that may pass returns to where it came from: the rules of the administrator and of the
    engine go on.
    """
    start = f"-A {chain}"
    made = [f"{start} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"]
    if version == 6:  # noqa: PLR2004  of IP
        made += [
            f"{start} -p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN" for kind in _NEIGHBOURS
        ]
    for target in sorted(addresses):
        for address in _of_version(addresses[target], version):
            # The port on this host that is published for a container has the container's address
            # here: hence "orig".
            made.append(
                f"{start} -p tcp -m conntrack --ctorigdst {address} --ctorigdstport {target.port} "
                f"-m comment --comment {target.url} -j RETURN"
            )
    if any(not target.is_address for target in addresses):
        length = 32 if version == 4 else 128  # noqa: PLR2004  of IP
        for address in _of_version(resolvers, version):
            made += [
                f"{start} -d {address}/{length} -p {protocol} -m {protocol} --dport {_DNS} -j RETURN"
                for protocol in ("udp", "tcp")
            ]
    return [*made, f"{start} -j REJECT --reject-with {_REFUSALS[version]}"]


def addresses_in(present: Iterable[str], target: Target) -> list[str]:
    """Return the addresses that rules which are there let through for a target."""
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
