"""``appliance logs``: what jobs and services have written."""
