"""The account that runs the containers and owns their files on the host."""

NAME = "fedcloud"
ID = 1999
"""Number of the user and of its group.

It is the same on every host, because files that containers write carry the number, not the name.
"""
