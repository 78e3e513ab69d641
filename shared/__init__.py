"""What every service agrees on: messages, settings, errors, data sets, fusion, metrics."""
