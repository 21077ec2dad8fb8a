"""What runs the jobs and services of a host: an engine with Compose, or the host itself."""
