"""``appliance bdii``: LDAP queries of the published information, as its clients make them."""
