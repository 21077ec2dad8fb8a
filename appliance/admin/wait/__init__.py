"""``appliance wait``: until a service is at work."""
