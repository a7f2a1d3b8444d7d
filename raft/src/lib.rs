//! Many Raft groups on one node: log, transport, membership, shard map.
