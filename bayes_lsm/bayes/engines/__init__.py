"""Draws from the posterior; another engine is one more module that returns `Draws`."""
