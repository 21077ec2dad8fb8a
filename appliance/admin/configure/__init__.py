"""``appliance configure``: questions about the site, and the files that the answers go to."""
