// A chunk may hold 40 bytes of logits: two rows of five. Two chunks are a loop over the tokens.
// RUN: split-cross-entropy chunk_bytes=40
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
//   @head_chunk(%x [rows 2, embed 3], %labels i32[rows 2], %w [vocab 5, embed 3])
//     %0 = matmul(%x, %w) {contract = "embed"} [rows 2, vocab 5]
//     %1 = cross_entropy(%0, %labels) {dim = "vocab"} [rows 2], [rows 2]
//     return %1#0
//   @eval_step(%x [seq 4, embed 3], %w [vocab 5, embed 3], %y i32[seq 4])
//     %0 = reshape(%x) {dims = ["chunk", "rows", "embed"], sizes = [2, 2, 3]} [chunk 2, rows 2, embed 3]
//     %1 = reshape(%y) {dims = ["chunk", "rows"], sizes = [2, 2]} i32[chunk 2, rows 2]
//     %2 = repeat(%0, %1, %w) {callee = @head_chunk, carried = 0, count = 2, dim = "chunk", sliced = 2} [chunk 2, rows 2]
//     %3 = reshape(%2) {dims = ["seq"], sizes = [4]} [seq 4]
//     return %3
