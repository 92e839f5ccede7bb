"""What makes one model train on many processes: the DeepSpeed engine and the sharded average."""
