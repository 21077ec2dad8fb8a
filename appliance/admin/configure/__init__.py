"""``appliance configure``: asks who the site is, once, and writes it to all files that need it."""
