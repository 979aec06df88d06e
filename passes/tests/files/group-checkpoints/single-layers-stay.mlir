// Layers that are recomputed one by one are a loop already.
// RUN: group-checkpoints
!x = tensor<3xf32, {dims = ["embed"]}>
!w = tensor<4x3xf32, {dims = ["layer", "embed"]}>
module {
  func.func @block(%x: !x, %w: !x) -> !x {
    %0 = "neox.mul"(%x, %w) : (!x, !x) -> !x
    return %0 : !x
  }
  func.func @loss(%x: !x, %w: !w) -> !x {
    %0 = "neox_loop.repeat"(%x, %w) {callee = @block, carried = 1, count = 4, dim = "layer", neox.checkpoint = 1, sliced = 1} : (!x, !w) -> !x
    return %0 : !x
  }
}
// EXPECT:
//   @block(%x [embed 3], %w [embed 3])
//     %0 = mul(%x, %w) [embed 3]
//     return %0
//   @loss(%x [embed 3], %w [layer 4, embed 3])
//     %0 = repeat(%x, %w) {callee = @block, carried = 1, count = 4, dim = "layer", checkpoint = 1, sliced = 1} [embed 3]
//     return %0
