"""The version of every program, of the wheel and of the images.  Pure."""

VERSION = "0.1.0"
