"""Memory, streams and frames of a GPU, through cuda-python or PyCUDA."""
