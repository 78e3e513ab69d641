"""The messages agents and coordinator exchange."""
