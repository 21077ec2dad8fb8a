"""The runtime of jobs and services: the Docker engine with Compose, or the host itself."""
