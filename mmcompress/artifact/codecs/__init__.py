"""Codecs: each file is a pure inverse pair over one weight, with no IO and no module."""
