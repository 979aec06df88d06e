// No `neox.precision`: the module computes in f32.
// RUN: lower-precision
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
!w = tensor<6x8xf32, {dims = ["ffn", "embed"]}>
!y = tensor<4x6xf32, {dims = ["seq", "ffn"]}>
module {
  func.func @logits(%x: !x, %w: !w {neox.param = "w"}) -> !y {
    %0 = "neox.matmul"(%x, %w) {contract = "embed"} : (!x, !w) -> !y
    return %0 : !y
  }
}
// EXPECT:
//   @logits(%x [seq 4, embed 8], %w [ffn 6, embed 8] {param = "w"})
//     %0 = matmul(%x, %w) {contract = "embed"} [seq 4, ffn 6]
//     return %0
