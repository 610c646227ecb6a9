"""What a fit says of effects: predictions, true effects, heterogeneity."""
