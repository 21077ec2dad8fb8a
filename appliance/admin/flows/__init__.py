"""``appliance flows``: which flows of data this site wants, and what belongs to each."""
