"""What a release says in the formats of others: each module turns the facts of a release into the bytes of one file."""
