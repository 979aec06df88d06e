// RUN: lower-precision
// FAILS: no target computes with f16
module attributes {neox.precision = "f16"} {
}
