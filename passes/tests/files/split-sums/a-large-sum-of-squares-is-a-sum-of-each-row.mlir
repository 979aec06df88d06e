// 256 rows are work for all threads; their sums are then added by one.
// RUN: split-sums
!x = tensor<256x128xf32, {dims = ["seq", "embed"]}>
!s = tensor<f32>
module {
  func.func @f(%x: !x) -> !s {
    %0 = "neox.sum_squares"(%x) : (!x) -> !s
    return %0 : !s
  }
}
// EXPECT:
//   @f(%x [seq 256, embed 128])
//     %0 = mul(%x, %x) [seq 256, embed 128]
//     %1 = reduce_sum(%0) {dims = ["embed"]} [seq 256]
//     %2 = reduce_sum(%1) {dims = ["seq"]} []
//     return %2
