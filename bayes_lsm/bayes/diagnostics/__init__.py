"""Whether a posterior can be trusted and fits the data."""
