"""The ``foveate`` command, one file per sub-command."""
