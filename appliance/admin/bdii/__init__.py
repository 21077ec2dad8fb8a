"""``appliance bdii``: the information that this site publishes, as the world sees it."""
