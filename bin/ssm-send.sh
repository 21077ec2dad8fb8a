#!/bin/sh
# Runs the job once; the arguments are for its program.
exec /usr/local/bin/appliance run ssmsend -- "$@"
