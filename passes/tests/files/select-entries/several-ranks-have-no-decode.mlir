// On several ranks @decode goes, and with it the body that only it calls; @block stays, which @logits calls too.
// RUN: select-entries tensor=2
!x = tensor<4xf32, {dims = ["embed"]}>
module {
  func.func @block(%x: !x) -> !x {
    %0 = "neox.exp"(%x) : (!x) -> !x
    return %0 : !x
  }
  func.func @token(%x: !x) -> !x {
    %0 = "neox.neg"(%x) : (!x) -> !x
    return %0 : !x
  }
  func.func @logits(%x: !x) -> !x {
    %0 = "func.call"(%x) {callee = @block} : (!x) -> !x
    return %0 : !x
  }
  func.func @decode(%x: !x) -> !x {
    %0 = "func.call"(%x) {callee = @token} : (!x) -> !x
    %1 = "func.call"(%0) {callee = @block} : (!x) -> !x
    return %1 : !x
  }
}
// EXPECT:
//   @block(%x [embed 4])
//     %0 = exp(%x) [embed 4]
//     return %0
//   @logits(%x [embed 4])
//     %0 = call(%x) {callee = @block} [embed 4]
//     return %0
