"""One script for each runtime: a trained student in, verified graphs out."""
