"""``appliance mounts``: the files of a site that are mounted into containers."""
