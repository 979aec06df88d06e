// The scale is not one over the number of elements: this is no norm, and stays as it is.
// RUN: rewrite-graph
!x = tensor<64x32xf32, {dims = ["seq", "embed"]}>
!w = tensor<32xf32, {dims = ["embed"]}>
!r = tensor<64xf32, {dims = ["seq"]}>
!s = tensor<f32>
module {
  func.func @f(%x: !x, %w: !w) -> !x {
    %n = "neox.fill"() {dims = [], dtype = "f32", sizes = [], value = 0.5 : f64} : () -> !s
    %e = "neox.fill"() {dims = [], dtype = "f32", sizes = [], value = 1.0e-5 : f64} : () -> !s
    %0 = "neox.mul"(%x, %x) : (!x, !x) -> !x
    %1 = "neox.reduce_sum"(%0) {dims = ["embed"]} : (!x) -> !r
    %2 = "neox.mul"(%1, %n) : (!r, !s) -> !r
    %3 = "neox.add"(%2, %e) : (!r, !s) -> !r
    %4 = "neox.rsqrt"(%3) : (!r) -> !r
    %5 = "neox.mul"(%x, %4) : (!x, !r) -> !x
    %6 = "neox.mul"(%5, %w) : (!x, !w) -> !x
    return %6 : !x
  }
}
// EXPECT:
//   @f(%x [seq 64, embed 32], %w [embed 32])
//     %0 = mul(%x, %x) [seq 64, embed 32]
//     %1 = reduce_sum(%0) {dims = ["embed"]} [seq 64]
//     %2 = fill() {dims = [], dtype = "f32", sizes = [], value = 0.5} []
//     %3 = mul(%1, %2) [seq 64]
//     %4 = fill() {dims = [], dtype = "f32", sizes = [], value = 1e-5} []
//     %5 = add(%3, %4) [seq 64]
//     %6 = rsqrt(%5) [seq 64]
//     %7 = mul(%x, %6) [seq 64, embed 32]
//     %8 = mul(%7, %w) [seq 64, embed 32]
//     return %8
