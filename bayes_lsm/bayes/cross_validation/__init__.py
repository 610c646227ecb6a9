"""What a fit predicts of effects that were left out."""
