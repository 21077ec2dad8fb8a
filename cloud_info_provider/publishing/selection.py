"""The publishers by name, and the places that their flags name; loads nothing."""

from __future__ import annotations

STDOUT, FILE, SWIFT, HTTP, S3 = "stdout", "file", "swift", "http", "s3"
PUBLISHERS = {
    STDOUT: "standard output",
    FILE: "a file",
    SWIFT: "a container of Swift",
    HTTP: "a folder of a web server",
    S3: "a bucket of S3",
}
"""What ``--publisher`` accepts, each with its meaning."""
STORES = (SWIFT, HTTP, S3)
"""The publishers that upload the file to an object store."""
PUBLISH_FILE = "/etc/cloud-info-provider/publish.yaml"
OUTPUT = "/var/lib/fedcloud/cloud-info/information.json"
