"""The account that everything of ours belongs to, in the containers and on the host."""

NAME = "fedcloud"
ID = 1999
"""Of the user and of its group; files in containers carry the number, so it is the same on every host."""
