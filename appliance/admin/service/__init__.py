"""``appliance service``: the steps of the systemd units of the long-running services."""
