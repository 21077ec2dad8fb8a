"""The command ``appliance``: one folder for each verb, and shared modules.

command      the command line, with the list of verbs
inventory    flows, jobs and services, with the command and time limit of each job
settings     the settings of the host that the verbs work on
account      the account of all containers and programs
runtime/     the Docker engine with Compose, or the host itself without containers
install/     the installer, which has no verb: scripts/install calls it

A verb needs three files: its folder's ``__init__.py``, the module with its ``VERB``, and a line in
``command``.
"""
