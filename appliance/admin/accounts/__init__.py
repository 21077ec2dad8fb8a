"""``appliance accounts``: the accounts of the cloud with no more rights than each flow needs."""
