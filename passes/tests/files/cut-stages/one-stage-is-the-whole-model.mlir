// RUN: cut-stages pipe=1
!x = tensor<3xf32, {dims = ["embed"]}>
module {
  func.func @train_step(%x: !x) -> !x {
    %0 = "neox.exp"(%x) : (!x) -> !x
    return %0 : !x
  }
}
// EXPECT:
//   @train_step(%x [embed 3])
//     %0 = exp(%x) [embed 3]
//     return %0
