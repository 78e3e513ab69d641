"""The web page in a real browser, against a running demo stack: `make test-browser`."""
