"""Options of cloudkeeper-os 0.9.9 that are accepted and ignored."""

from appliance.core.config import oslo

IGNORED = (*oslo.LOG_OPTIONS, "tempdir")
"""Options of ``[DEFAULT]``; 0.9.9 keeps the images of the remote mode in ``tempdir``."""
