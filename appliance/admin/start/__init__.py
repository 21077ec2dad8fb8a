"""``appliance start``: the first and every later start of services and jobs."""
