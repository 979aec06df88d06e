// What a layer leaves behind would be stacked by group: refused.
// RUN: group-checkpoints
// FAILS: a checkpointed loop returns per-step values
!x = tensor<3xf32, {dims = ["embed"]}>
!w = tensor<4x3xf32, {dims = ["layer", "embed"]}>
module {
  func.func @block(%x: !x, %w: !x) -> (!x, !x) {
    %0 = "neox.mul"(%x, %w) : (!x, !x) -> !x
    return %0, %0 : !x, !x
  }
  func.func @loss(%x: !x, %w: !w) -> (!x, !w) {
    %0:2 = "neox_loop.repeat"(%x, %w) {callee = @block, carried = 1, count = 4, dim = "layer", neox.checkpoint = 2, sliced = 1} : (!x, !w) -> (!x, !w)
    return %0#0, %0#1 : !x, !w
  }
}
