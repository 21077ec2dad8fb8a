"""``appliance wait``: waiting for services, with an early end if they cannot start."""
