"""``appliance run``: one job, once, in its container."""
