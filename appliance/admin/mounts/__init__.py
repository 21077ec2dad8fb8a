"""``appliance mounts``: which of a site's files its containers get."""
