#!/bin/sh
# Runs the job once, in its container; arguments are for its program.
exec /usr/local/bin/appliance run cloud-info -- "$@"
