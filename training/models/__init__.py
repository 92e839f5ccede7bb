"""Plain single-device torch modules; parallelism is applied from outside."""
