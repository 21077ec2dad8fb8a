"""``appliance schedule``: who starts the jobs, cron or systemd."""
