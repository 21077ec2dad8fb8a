"""The OCI distribution protocol: names, login, and requests to a registry."""
