"""From shards to batches: index, plan (pure order), read, decode, batch."""
