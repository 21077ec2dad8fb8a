"""``appliance run``: a single run of a job, in its container or on the host."""
