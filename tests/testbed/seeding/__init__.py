"""Fills a cloud that is up, through its own API, each thing unless it is there."""
