"""What the public BDII may connect to: a chain of the host's packet filter, made from ``site-urls.conf``.

targets     what site-urls.conf names, and the addresses that this has now
chain       targets to rules (pure)
tables      iptables and ip6tables, as programs
egress      brings the tables to the rules, and finds out whether they are in place
control     the command ``appliance firewall``
"""
