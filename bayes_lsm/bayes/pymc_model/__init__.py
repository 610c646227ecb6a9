"""The model as a `pymc.Model`, and draws as an ArviZ DataTree."""
