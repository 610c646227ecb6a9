"""What a posterior says of effects and of heterogeneity."""
