// An RMS norm, and its gradient with the residual's: a kernel of rows each.
// RUN: fuse-kernels
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
!w = tensor<8xf32, {dims = ["embed"]}>
!r = tensor<4xf32, {dims = ["seq"]}>
!s = tensor<2x8xf32, {dims = ["run", "embed"]}>
module attributes {neox.mesh = ["data=1"]} {
  func.func @eval_step(%x: !x, %w: !w, %dy: !x) -> (!x, !x, !s) {
    %0:2 = "neox.rms_norm"(%x, %w) {dim = "embed", eps = 1.0e-5 : f64} : (!x, !w) -> (!x, !r)
    %1:2 = "neox.rms_norm_grad"(%x, %w, %0#1, %dy) {dim = "embed", rows = 2} : (!x, !w, !r, !x) -> (!x, !s)
    %2 = "neox.add"(%1#0, %dy) : (!x, !x) -> !x
    return %0#0, %2, %1#1 : !x, !x, !s
  }
}
// EXPECT:
//   module {mesh = ["data=1"]}
//   @rowwise_0(%p0 [seq 4, embed 8], %p1 [embed 8]) {inplace = [0, 0], kernel = "rowwise"}
//     %0 = rms_norm(%p0, %p1) {dim = "embed", eps = 1e-5} [seq 4, embed 8], [seq 4]
//     return %0#0, %0#1
//   @rowwise_1(%p0 [seq 4, embed 8], %p1 [embed 8], %p2 [seq 4], %p3 [seq 4, embed 8]) {inplace = [1, 0, 1, 3], kernel = "rowwise"}
//     %0 = rms_norm_grad(%p0, %p1, %p2, %p3) {dim = "embed", rows = 2} [seq 4, embed 8], [run 2, embed 8]
//     %1 = add(%0#0, %p3) [seq 4, embed 8]
//     return %0#1, %1
//   @eval_step(%x [seq 4, embed 8], %w [embed 8], %dy [seq 4, embed 8])
//     %0 = call(%x, %w) {callee = @rowwise_0} [seq 4, embed 8], [seq 4]
//     %1 = call(%x, %w, %0#1, %dy) {callee = @rowwise_1} [run 2, embed 8], [seq 4, embed 8]
//     return %0#0, %1#1, %1#0
