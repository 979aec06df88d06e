// All logits fit: a loop of one iteration.
// RUN: split-cross-entropy
!x = tensor<4x3xf32, {dims = ["seq", "embed"]}>
!w = tensor<5x3xf32, {dims = ["vocab", "embed"]}>
!y = tensor<4xi32, {dims = ["seq"]}>
!l = tensor<4xf32, {dims = ["seq"]}>
module attributes {neox.mesh = ["data=1"]} {
  func.func @eval_step(%x: !x, %w: !w, %y: !y) -> !l {
    %0:2 = "neox.linear_cross_entropy"(%x, %w, %y) : (!x, !w, !y) -> (!l, !l)
    return %0#0 : !l
  }
}
// EXPECT:
//   module {mesh = ["data=1"]}
//   @head_chunk(%x [rows 4, embed 3], %labels i32[rows 4], %w [vocab 5, embed 3])
//     %0 = matmul(%x, %w) {contract = "embed"} [rows 4, vocab 5]
//     %1 = cross_entropy(%0, %labels) {dim = "vocab"} [rows 4], [rows 4]
//     return %1#0
//   @eval_step(%x [seq 4, embed 3], %w [vocab 5, embed 3], %y i32[seq 4])
//     %0 = reshape(%x) {dims = ["chunk", "rows", "embed"], sizes = [1, 4, 3]} [chunk 1, rows 4, embed 3]
//     %1 = reshape(%y) {dims = ["chunk", "rows"], sizes = [1, 4]} i32[chunk 1, rows 4]
//     %2 = repeat(%0, %1, %w) {callee = @head_chunk, carried = 0, count = 1, dim = "chunk", sliced = 2} [chunk 1, rows 4]
//     %3 = reshape(%2) {dims = ["seq"], sizes = [4]} [seq 4]
//     return %3
