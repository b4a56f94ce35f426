"""Where features live: sealed shards, the bank that finds them, and its maintenance."""
