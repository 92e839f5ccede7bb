"""Third-party networks, one a file: which weights, how they load, one call. Imported lazily by the batch stage that uses them."""
