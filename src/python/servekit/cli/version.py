"""The version of every program and wheel; build-support/wheels.build has the same.  Pure."""

VERSION = "0.1.0"
