//! Events to the outside world: the Sink trait, its pipeline and the sinks.
