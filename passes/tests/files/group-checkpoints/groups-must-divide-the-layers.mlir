// Three layers a group leave one of four over.
// RUN: group-checkpoints
// FAILS: groups of 3 do not divide 4 layers
!x = tensor<3xf32, {dims = ["embed"]}>
!w = tensor<4x3xf32, {dims = ["layer", "embed"]}>
module {
  func.func @block(%x: !x, %w: !x) -> !x {
    %0 = "neox.mul"(%x, %w) : (!x, !x) -> !x
    return %0 : !x
  }
  func.func @loss(%x: !x, %w: !w) -> !x {
    %0 = "neox_loop.repeat"(%x, %w) {callee = @block, carried = 1, count = 4, dim = "layer", neox.checkpoint = 3, sliced = 1} : (!x, !w) -> !x
    return %0 : !x
  }
}
