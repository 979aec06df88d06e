// A function that no rule applies to stays, with its order.
// RUN: rewrite-graph
!x = tensor<8xf32, {dims = ["embed"]}>
module {
  func.func @f(%a: !x, %b: !x) -> (!x, !x) {
    %0 = "neox.exp"(%a) : (!x) -> !x
    %1 = "neox.tanh"(%b) : (!x) -> !x
    return %0, %1 : !x, !x
  }
}
// EXPECT:
//   @f(%a [embed 8], %b [embed 8])
//     %0 = exp(%a) [embed 8]
//     %1 = tanh(%b) [embed 8]
//     return %0, %1
