"""An HTML page about a fitted program."""
