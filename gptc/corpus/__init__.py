"""Text becomes token shards: where it comes from, how it is encoded in parallel, how it is written and checked."""
