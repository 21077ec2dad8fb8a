"""``appliance images``: the images of services and jobs on this host."""
