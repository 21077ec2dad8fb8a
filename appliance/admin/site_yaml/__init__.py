"""``appliance export-site-yaml`` and ``import-site-yaml``: a site's file of EGI's catch-all."""
