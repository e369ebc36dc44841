"""The work behind the Makefile's targets."""
