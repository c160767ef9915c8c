"""The shapes each operator is compiled, checked and timed on."""
