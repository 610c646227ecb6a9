"""A model in numbers: words and a data frame become arrays, checked once at this door."""
