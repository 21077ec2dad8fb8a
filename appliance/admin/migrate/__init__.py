"""``appliance migrate``: take over an earlier release of the appliance, or plain upstream files."""
