"""``appliance restart``: replace a running service, after its configuration has passed its check."""
