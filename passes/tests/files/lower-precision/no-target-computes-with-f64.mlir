// RUN: lower-precision
// FAILS: no target computes with f64
module attributes {neox.precision = "f64"} {
}
