//! The broker that knows where things are.
fn main() {}
