"""``appliance images``: whether the images of services and jobs are on the host."""
