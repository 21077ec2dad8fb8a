"""``appliance check``: checks of the configuration before a job or service uses it."""
