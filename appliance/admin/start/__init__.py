"""``appliance start``: starts what is configured, for the first time or again."""
