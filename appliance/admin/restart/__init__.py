"""``appliance restart``: replacement of a service after a check of its configuration."""
