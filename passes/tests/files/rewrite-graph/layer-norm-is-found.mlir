// Mean, centring, variance and scaling are one layer norm: one kernel that reads its rows once.
// RUN: rewrite-graph
!x = tensor<64x32xf32, {dims = ["seq", "embed"]}>
!w = tensor<32xf32, {dims = ["embed"]}>
!r = tensor<64xf32, {dims = ["seq"]}>
!s = tensor<f32>
module {
  func.func @f(%x: !x, %w: !w, %b: !w) -> !x {
    %n = "neox.fill"() {dims = [], dtype = "f32", sizes = [], value = 0.03125 : f64} : () -> !s
    %e = "neox.fill"() {dims = [], dtype = "f32", sizes = [], value = 1.0e-5 : f64} : () -> !s
    %0 = "neox.reduce_sum"(%x) {dims = ["embed"]} : (!x) -> !r
    %1 = "neox.mul"(%0, %n) : (!r, !s) -> !r
    %2 = "neox.sub"(%x, %1) : (!x, !r) -> !x
    %3 = "neox.mul"(%2, %2) : (!x, !x) -> !x
    %4 = "neox.reduce_sum"(%3) {dims = ["embed"]} : (!x) -> !r
    %5 = "neox.mul"(%4, %n) : (!r, !s) -> !r
    %6 = "neox.add"(%5, %e) : (!r, !s) -> !r
    %7 = "neox.rsqrt"(%6) : (!r) -> !r
    %8 = "neox.mul"(%2, %7) : (!x, !r) -> !x
    %9 = "neox.mul"(%8, %w) : (!x, !w) -> !x
    %10 = "neox.add"(%9, %b) : (!x, !w) -> !x
    return %10 : !x
  }
}
// EXPECT:
//   @f(%x [seq 64, embed 32], %w [embed 32], %b [embed 32]) {choices = ["layer_norm (layer-norm-with-bias, reassociating) for reduce_sum mul sub mul reduce_sum mul add rsqrt mul mul add: 3.43 us instead of 35.75 us, at -"]}
//     %0 = layer_norm(%x, %w, %b) {dim = "embed", eps = 1e-5} [seq 64, embed 32], [seq 64], [seq 64]
//     return %0#0
