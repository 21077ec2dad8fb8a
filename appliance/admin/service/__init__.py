"""``appliance service``: the steps of the units of the long-running services."""
