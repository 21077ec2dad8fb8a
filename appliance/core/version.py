"""The version of the distribution, in the one place that the build and every program read."""

__version__ = "1.0.0"
