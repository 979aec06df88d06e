// The two sums are one class of the e-graph, whichever way round their operands stand.
// RUN: rewrite-graph
!x = tensor<8xf32, {dims = ["embed"]}>
module {
  func.func @f(%a: !x, %b: !x) -> !x {
    %0 = "neox.add"(%a, %b) : (!x, !x) -> !x
    %1 = "neox.add"(%b, %a) : (!x, !x) -> !x
    %2 = "neox.mul"(%0, %1) : (!x, !x) -> !x
    return %2 : !x
  }
}
// EXPECT:
//   @f(%a [embed 8], %b [embed 8])
//     %0 = add(%a, %b) [embed 8]
//     %1 = mul(%0, %0) [embed 8]
//     return %1
