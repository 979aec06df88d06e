// The product is given back and summed: what is made of it alone, the sum and its root, is f32 too.
// RUN: lower-precision
// TOLERANCE: 2e-2
!x = tensor<4x8xf32, {dims = ["seq", "embed"]}>
!w = tensor<6x8xf32, {dims = ["ffn", "embed"]}>
!y = tensor<4x6xf32, {dims = ["seq", "ffn"]}>
!s = tensor<f32>
module attributes {neox.precision = "bf16"} {
  func.func @logits(%x: !x {neox.name = "x", neox.role = "batch"}, %w: !w {neox.param = "w"}) -> (!y, !s) {
    %0 = "neox.matmul"(%x, %w) {contract = "embed"} : (!x, !w) -> !y
    %1 = "neox.sum_squares"(%0) : (!y) -> !s
    %2 = "neox.sqrt"(%1) : (!s) -> !s
    return %0, %2 : !y, !s
  }
}
// EXPECT:
//   module {precision = "bf16"}
//   @logits(%x [seq 4, embed 8] {name = "x", role = "batch"}, %w [ffn 6, embed 8] {param = "w"})
//     %0 = cast(%x) {dtype = "bf16"} bf16[seq 4, embed 8]
//     %1 = cast(%w) {dtype = "bf16"} bf16[ffn 6, embed 8]
//     %2 = matmul(%0, %1) {contract = "embed"} [seq 4, ffn 6]
//     %3 = sum_squares(%2) []
//     %4 = sqrt(%3) []
//     return %2, %4
