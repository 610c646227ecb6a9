"""What differs with Student-t effects."""
