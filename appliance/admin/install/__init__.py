"""The installer, which ``scripts/install`` runs from the bundle's wheel after verifying the bundle.

It uses Python's standard library only, because no library of the appliance is installed yet.
"""
