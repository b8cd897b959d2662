"""What says whether a file is safe, right and fast: lint, interpreters, checks, benchmarks. Not for phones."""
