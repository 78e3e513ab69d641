"""The HTTP gateway and the `xr` command line."""
