//! The replicated state machine of a shard: commands in, effects out.
