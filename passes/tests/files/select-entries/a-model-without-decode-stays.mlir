// Models with experts have no @decode: nothing is to be left out.
// RUN: select-entries data=2
!x = tensor<4xf32, {dims = ["embed"]}>
module {
  func.func @logits(%x: !x) -> !x {
    return %x : !x
  }
}
// EXPECT:
//   @logits(%x [embed 4])
//     return %x
