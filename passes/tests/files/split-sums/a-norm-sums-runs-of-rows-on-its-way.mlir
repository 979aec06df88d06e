// Twenty rows are three runs of at most eight: the norm's backward leaves a sum of each, which are then added.
// RUN: split-sums
!x = tensor<20x4xf32, {dims = ["seq", "embed"]}>
!w = tensor<4xf32, {dims = ["embed"]}>
!r = tensor<20xf32, {dims = ["seq"]}>
module {
  func.func @f(%x: !x, %w: !w, %mean: !r, %rstd: !r, %dy: !x) -> (!x, !w, !w) {
    %0:3 = "neox.layer_norm_grad"(%x, %w, %mean, %rstd, %dy) {dim = "embed"} : (!x, !w, !r, !r, !x) -> (!x, !w, !w)
    return %0#0, %0#1, %0#2 : !x, !w, !w
  }
}
// EXPECT:
//   @f(%x [seq 20, embed 4], %w [embed 4], %mean [seq 20], %rstd [seq 20], %dy [seq 20, embed 4])
//     %0 = layer_norm_grad(%x, %w, %mean, %rstd, %dy) {dim = "embed", rows = 8} [seq 20, embed 4], [run 3, embed 4], [run 3, embed 4]
//     %1 = reduce_sum(%0#1) {dims = ["run"]} [embed 4]
//     %2 = reduce_sum(%0#2) {dims = ["run"]} [embed 4]
//     return %0#0, %1, %2
