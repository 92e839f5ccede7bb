"""Order and engines: which stage follows which, on Ray, Spark or plain Python, and the `dailies` command. Nothing imports it."""
