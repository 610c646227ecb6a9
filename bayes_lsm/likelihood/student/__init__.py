"""Student-t effects, integrated by quadrature row by row."""
