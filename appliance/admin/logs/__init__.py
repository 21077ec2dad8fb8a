"""``appliance logs``: the logs of jobs and services."""
