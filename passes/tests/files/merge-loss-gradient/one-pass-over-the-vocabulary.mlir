// Loss and gradient of the head read the same logits: one op makes both, as %dl is known before the loss.
// RUN: merge-loss-gradient
!x = tensor<2x3xf32, {dims = ["seq", "embed"]}>
!w = tensor<5x3xf32, {dims = ["vocab", "embed"]}>
!y = tensor<2xi32, {dims = ["seq"]}>
!l = tensor<2xf32, {dims = ["seq"]}>
module {
  func.func @micro_step(%x: !x, %w: !w, %y: !y, %dl: !l) -> (!l, !x, !w) {
    %0:2 = "neox.linear_cross_entropy"(%x, %w, %y) : (!x, !w, !y) -> (!l, !l)
    %1:2 = "neox.linear_cross_entropy_grad"(%x, %w, %y, %0#1, %dl) : (!x, !w, !y, !l, !l) -> (!x, !w)
    return %0#0, %1#0, %1#1 : !l, !x, !w
  }
}
// EXPECT:
//   @micro_step(%x [seq 2, embed 3], %w [vocab 5, embed 3], %y i32[seq 2], %dl [seq 2])
//     %0 = linear_cross_entropy_train(%x, %w, %y, %dl) [seq 2], [seq 2], [seq 2, embed 3], [vocab 5, embed 3]
//     return %0#0, %0#2, %0#3
