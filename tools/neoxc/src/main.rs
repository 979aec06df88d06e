//! `neoxc`: the command line.
fn main() {}
