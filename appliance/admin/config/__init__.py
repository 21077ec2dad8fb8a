"""``appliance config``: what the programs read, whether it is right, and what the site changed."""
