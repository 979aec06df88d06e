// RUN: peel-last-step
!x = tensor<4xf32, {dims = ["embed"]}>
module attributes {neox.mesh = ["data=1"]} {
  func.func @train_step(%x: !x) -> !x {
    %0 = "neox.exp"(%x) : (!x) -> !x
    return %0 : !x
  }
}
// EXPECT:
//   module {mesh = ["data=1"]}
//   @train_step(%x [embed 4])
//     %0 = exp(%x) [embed 4]
//     return %0
