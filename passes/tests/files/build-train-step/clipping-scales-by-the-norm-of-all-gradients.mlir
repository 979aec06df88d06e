// Two micro-batches: their gradients are summed in a loop, the loss is their mean, and clipping compares the norm with 1.
// RUN: build-train-step
// SHOW: @train_step
!w = tensor<3xf32, {dims = ["embed"]}>
!s = tensor<f32>
module attributes {neox.clip = 1.0 : f64, neox.optimizer = "adam beta1=0.9 beta2=0.95 eps=1e-8 weight_decay=0.1"} {
  func.func @eval_step(%w: !w {neox.decay = true, neox.param = "w"}, %x: !w {neox.name = "tokens", neox.role = "batch"}) -> !s attributes {neox.grad_accum = 2} {
    %0 = "neox.mul"(%w, %x) : (!w, !w) -> !w
    %1 = "neox.reduce_sum"(%0) {dims = ["embed"]} : (!w) -> !s
    return %1 : !s
  }
  func.func @micro_step(%g: !w, %x: !w {neox.name = "tokens", neox.role = "batch"}, %w: !w {neox.decay = true, neox.param = "w"}) -> (!w, !s) {
    %0 = "neox.add"(%g, %x) : (!w, !w) -> !w
    %1 = "neox.mul"(%w, %x) : (!w, !w) -> !w
    %2 = "neox.reduce_sum"(%1) {dims = ["embed"]} : (!w) -> !s
    return %0, %2 : !w, !s
  }
}
// EXPECT:
//   @train_step(%w [embed 3] {decay = true, param = "w"}, %exp_avg_w [embed 3] {name = "w", role = "state", slot = "exp_avg"}, %exp_avg_sq_w [embed 3] {name = "w", role = "state", slot = "exp_avg_sq"}, %x [micro 2, embed 3] {name = "x", role = "batch"}, %lr [] {formula = "lr", name = "lr", role = "scalar"}, %bc1 [] {formula = "1 - 1 * 0.9^step", name = "bc1", role = "scalar"}, %bc2 [] {formula = "1 - 1 * 0.95^step", name = "bc2", role = "scalar"}) {results = ["param w", "state exp_avg w", "state exp_avg_sq w", "output loss", "output grad_norm"]}
//     %0 = fill() {dims = ["embed"], dtype = "f32", sizes = [3], value = 0.0} [embed 3]
//     %1 = repeat(%0, %x, %w) {callee = @micro_step, carried = 1, count = 2, dim = "micro", sliced = 1} [embed 3], [micro 2]
//     %2 = reduce_sum(%1#1) {dims = ["micro"]} []
//     %3 = fill() {dims = [], dtype = "f32", sizes = [], value = 0.5} []
//     %4 = mul(%2, %3) []
//     %5 = sum_squares(%1#0) []
//     %6 = sqrt(%5) []
//     %7 = fill() {dims = [], dtype = "f32", sizes = [], value = 1.0} []
//     %8 = fill() {dims = [], dtype = "f32", sizes = [], value = 1.0} []
//     %9 = fill() {dims = [], dtype = "f32", sizes = [], value = 1e-6} []
//     %10 = add(%6, %9) []
//     %11 = div(%8, %10) []
//     %12 = minimum(%11, %7) []
//     %13 = map(%w, %1#0, %exp_avg_w, %exp_avg_sq_w, %lr, %bc1, %bc2, %12) {callee = @update_decayed, results = 3} [embed 3], [embed 3], [embed 3]
//     return %13#0, %13#1, %13#2, %4, %6
