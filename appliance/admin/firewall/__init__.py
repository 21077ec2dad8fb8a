"""A chain of the host's packet filter that restricts the connections of the site's BDII.

targets     the resource BDIIs of site-urls.conf, and their present addresses
chain       turns targets into rules, without side effects
tables      runs iptables and ip6tables
egress      applies the rules to the tables, and checks whether they are in place
control     the command ``appliance firewall``
"""
