// One rank makes text token by token with @decode, so the plan keeps it.
// RUN: select-entries tensor=1
!x = tensor<4xf32, {dims = ["embed"]}>
module {
  func.func @logits(%x: !x) -> !x {
    return %x : !x
  }
  func.func @decode(%x: !x) -> !x {
    %0 = "neox.neg"(%x) : (!x) -> !x
    return %0 : !x
  }
}
// EXPECT:
//   @logits(%x [embed 4])
//     return %x
//   @decode(%x [embed 4])
//     %0 = neg(%x) [embed 4]
//     return %0
