"""Intervals and quantiles of draws and of normal mixtures."""
