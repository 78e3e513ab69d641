"""The sub-commands of `xr`, one file per subject."""
