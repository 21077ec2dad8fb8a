"""``appliance vo plan|apply|remove``: what a VO needs at this site, as one reviewed change."""
