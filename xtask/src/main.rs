//! What CI and people call.
fn main() {}
