//! Real processes, real faults, checked histories.
