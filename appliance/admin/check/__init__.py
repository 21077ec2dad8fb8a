"""``appliance check``: find what is wrong before a job runs or a service is replaced."""
