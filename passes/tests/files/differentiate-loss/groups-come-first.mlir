// Groups of layers are `group-checkpoints`'s business.
// RUN: differentiate-loss
// FAILS: every checkpointed loop recomputes one iteration at a time
!x = tensor<3xf32, {dims = ["embed"]}>
!w = tensor<4x3xf32, {dims = ["layer", "embed"]}>
module {
  func.func @block(%x: !x, %w: !x) -> !x {
    %0 = "neox.mul"(%x, %w) : (!x, !x) -> !x
    return %0 : !x
  }
  func.func @loss(%w: !w {neox.param = "w.{layer}"}, %x: !x {neox.name = "tokens", neox.role = "batch"}) -> !x {
    %0 = "neox_loop.repeat"(%x, %w) {callee = @block, carried = 1, count = 4, dim = "layer", neox.checkpoint = 2, sliced = 1} : (!x, !w) -> !x
    return %0 : !x
  }
}
