"""What is measured and how: one subject a file, pure functions with their own config. Imports `manifests` only."""
