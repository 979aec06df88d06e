// Four ranks do not divide six rows: the vocabulary stays whole, the MLP is divided.
// RUN: assign-layouts tensor=4
!w = tensor<2x8x4xf32, {dims = ["layer", "ffn", "embed"]}>
!n = tensor<4xf32, {dims = ["embed"]}>
!e = tensor<6x4xf32, {dims = ["vocab", "embed"]}>
!t = tensor<4x2x4xi32, {dims = ["micro", "batch", "seq"]}>
module {
  func.func @train_step(%w: !w {neox.param = "w.{layer}", neox.tensor = ["ffn"]}, %n: !n {neox.param = "n"}, %e: !e {neox.param = "e", neox.tensor_if_even = ["vocab"]}, %m: !w {neox.name = "w.{layer}", neox.role = "state", neox.slot = "exp_avg"}, %t: !t {neox.name = "tokens", neox.role = "batch"}) -> !n {
    return %n : !n
  }
}
// EXPECT:
//   @train_step(%w [layer 2, ffn 8, embed 4] {layout = ["", "tensor", ""], param = "w.{layer}", tensor = ["ffn"]}, %n [embed 4] {param = "n"}, %e [vocab 6, embed 4] {param = "e", tensor_if_even = ["vocab"]}, %m [layer 2, ffn 8, embed 4] {layout = ["", "tensor", ""], name = "w.{layer}", role = "state", slot = "exp_avg"}, %t i32[micro 4, batch 2, seq 4] {name = "tokens", role = "batch"})
//     return %n
