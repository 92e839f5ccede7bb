"""What is trained and how: models, tasks, data order, one loop. Imports `manifests` only."""
