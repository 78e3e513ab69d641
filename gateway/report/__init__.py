"""The report of a run as one HTML page, and the charts in it."""
