// RUN: split-sums
!x = tensor<4x128xf32, {dims = ["seq", "embed"]}>
!s = tensor<f32>
module {
  func.func @f(%x: !x) -> !s {
    %0 = "neox.sum_squares"(%x) : (!x) -> !s
    return %0 : !s
  }
}
// EXPECT:
//   @f(%x [seq 4, embed 128])
//     %0 = sum_squares(%x) []
//     return %0
