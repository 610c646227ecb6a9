"""Location-scale models for meta-analysis."""
