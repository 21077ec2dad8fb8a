"""What ``scripts/install`` does once the bundle is proven: with Python's standard library alone, from the wheel."""
