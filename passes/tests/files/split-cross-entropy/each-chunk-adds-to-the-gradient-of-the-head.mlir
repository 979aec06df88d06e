// The gradient of the head's weights is carried from chunk to chunk; that of the tokens is a slice of each.
// RUN: split-cross-entropy chunk_bytes=40
!x = tensor<4x3xf32, {dims = ["seq", "embed"]}>
!w = tensor<5x3xf32, {dims = ["vocab", "embed"]}>
!y = tensor<4xi32, {dims = ["seq"]}>
!l = tensor<4xf32, {dims = ["seq"]}>
module attributes {neox.mesh = ["data=1"]} {
  func.func @micro_step(%x: !x, %w: !w, %y: !y, %dl: !l, %g: !w) -> (!l, !x, !w) {
    %0:4 = "neox.linear_cross_entropy_train"(%x, %w, %y, %dl) : (!x, !w, !y, !l) -> (!l, !l, !x, !w)
    %1 = "neox.add"(%g, %0#3) : (!w, !w) -> !w
    return %0#0, %0#2, %1 : !l, !x, !w
  }
}
// EXPECT:
//   module {mesh = ["data=1"]}
//   @head_chunk(%grad_w [vocab 5, embed 3], %x [rows 2, embed 3], %labels i32[rows 2], %dloss [rows 2], %w [vocab 5, embed 3])
//     %0 = matmul(%x, %w) {contract = "embed"} [rows 2, vocab 5]
//     %1 = cross_entropy(%0, %labels) {dim = "vocab"} [rows 2], [rows 2]
//     %2 = cross_entropy_grad(%0, %labels, %1#1, %dloss) {dim = "vocab"} [rows 2, vocab 5]
//     %3 = matmul(%2, %w) {contract = "vocab"} [rows 2, embed 3]
//     %4 = matmul(%2, %x) {contract = "rows"} [vocab 5, embed 3]
//     %5 = add(%grad_w, %4) [vocab 5, embed 3]
//     return %5, %1#0, %3
//   @micro_step(%x [seq 4, embed 3], %w [vocab 5, embed 3], %y i32[seq 4], %dl [seq 4], %g [vocab 5, embed 3])
//     %0 = reshape(%x) {dims = ["chunk", "rows", "embed"], sizes = [2, 2, 3]} [chunk 2, rows 2, embed 3]
//     %1 = reshape(%y) {dims = ["chunk", "rows"], sizes = [2, 2]} i32[chunk 2, rows 2]
//     %2 = reshape(%dl) {dims = ["chunk", "rows"], sizes = [2, 2]} [chunk 2, rows 2]
//     %3 = repeat(%g, %0, %1, %2, %w) {callee = @head_chunk, carried = 1, count = 2, dim = "chunk", sliced = 3} [vocab 5, embed 3], [chunk 2, rows 2], [chunk 2, rows 2, embed 3]
//     %4 = reshape(%3#1) {dims = ["seq"], sizes = [4]} [seq 4]
//     %5 = reshape(%3#2) {dims = ["seq", "embed"], sizes = [4, 3]} [seq 4, embed 3]
//     return %4, %5, %3#0
