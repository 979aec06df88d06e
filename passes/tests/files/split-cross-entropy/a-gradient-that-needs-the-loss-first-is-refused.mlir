// RUN: split-cross-entropy
// FAILS: the loss's gradient is not known before the loss
!x = tensor<4x3xf32, {dims = ["seq", "embed"]}>
!w = tensor<5x3xf32, {dims = ["vocab", "embed"]}>
!y = tensor<4xi32, {dims = ["seq"]}>
!l = tensor<4xf32, {dims = ["seq"]}>
module attributes {neox.mesh = ["data=1"]} {
  func.func @micro_step(%x: !x, %w: !w, %y: !y, %lse: !l, %dl: !l) -> (!x, !w) {
    %0:2 = "neox.linear_cross_entropy_grad"(%x, %w, %y, %lse, %dl) : (!x, !w, !y, !l, !l) -> (!x, !w)
    return %0#0, %0#1 : !x, !w
  }
}
