"""``appliance flows``: the flows of data that are on, with their jobs and services."""
