// The zeros are returned as well: they have to be made.
// RUN: drop-zero-sums
!x = tensor<3xf32, {dims = ["embed"]}>
!w = tensor<2x3xf32, {dims = ["layer", "embed"]}>
module {
  func.func @layer(%x: !x, %w: !x, %g: !x) -> (!x, !x) {
    %0 = "neox.mul"(%x, %w) : (!x, !x) -> !x
    %1 = "neox.mul"(%0, %0) : (!x, !x) -> !x
    %2 = "neox.add"(%g, %1) : (!x, !x) -> !x
    return %0, %2 : !x, !x
  }
  func.func @train_step(%x: !x, %w: !w) -> (!x, !w, !w) {
    %z = "neox.fill"() {dims = ["layer", "embed"], dtype = "f32", sizes = [2, 3], value = 0.0 : f64} : () -> !w
    %0:2 = "neox_loop.repeat"(%x, %w, %z) {callee = @layer, carried = 1, count = 2, dim = "layer", sliced = 2} : (!x, !w, !w) -> (!x, !w)
    return %0#0, %0#1, %z : !x, !w, !w
  }
}
// EXPECT:
//   @layer(%x [embed 3], %w [embed 3], %g [embed 3])
//     %0 = mul(%x, %w) [embed 3]
//     %1 = mul(%0, %0) [embed 3]
//     %2 = add(%g, %1) [embed 3]
//     return %0, %2
//   @train_step(%x [embed 3], %w [layer 2, embed 3])
//     %0 = fill() {dims = ["layer", "embed"], dtype = "f32", sizes = [2, 3], value = 0.0} [layer 2, embed 3]
//     %1 = repeat(%x, %w, %0) {callee = @layer, carried = 1, count = 2, dim = "layer", sliced = 2} [embed 3], [layer 2, embed 3]
//     return %1#0, %1#1, %0
