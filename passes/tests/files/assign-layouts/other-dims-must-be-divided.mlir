// RUN: assign-layouts tensor=3
// FAILS: 3 ranks of the `tensor` axis do not divide the 8 elements of `ffn`
!w = tensor<2x8x4xf32, {dims = ["layer", "ffn", "embed"]}>
!n = tensor<4xf32, {dims = ["embed"]}>
!e = tensor<6x4xf32, {dims = ["vocab", "embed"]}>
!t = tensor<4x2x4xi32, {dims = ["micro", "batch", "seq"]}>
module {
  func.func @train_step(%w: !w {neox.param = "w.{layer}", neox.tensor = ["ffn"]}, %n: !n {neox.param = "n"}, %e: !e {neox.param = "e", neox.tensor_if_even = ["vocab"]}, %m: !w {neox.name = "w.{layer}", neox.role = "state", neox.slot = "exp_avg"}, %t: !t {neox.name = "tokens", neox.role = "batch"}) -> !n {
    return %n : !n
  }
}
