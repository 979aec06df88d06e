// Four elements take the link less time than its latency: one collective for all layers, behind the loop, is sooner done.
// RUN: peel-last-step data=2
!x = tensor<4xf32, {dims = ["embed"]}>
!w = tensor<2x4xf32, {dims = ["layer", "embed"]}>
!t = tensor<3x4xf32, {dims = ["micro", "embed"]}>
module attributes {neox.mesh = ["data=2"]} {
  func.func @block.bwd(%d: !x, %w: !x, %g: !x) -> (!x, !x) {
    %0 = "neox.mul"(%d, %w) : (!x, !x) -> !x
    %1 = "neox.exp"(%d) : (!x) -> !x
    %2 = "neox.add"(%g, %1) : (!x, !x) -> !x
    return %0, %2 : !x, !x
  }
  func.func @micro_step(%g: !w, %x: !x, %w: !w) -> !w {
    %0:2 = "neox_loop.repeat"(%x, %w, %g) {callee = @block.bwd, carried = 1, count = 2, dim = "layer", reverse = true, sliced = 2} : (!x, !w, !w) -> (!x, !w)
    return %0#1 : !w
  }
  func.func @train_step(%w: !w {neox.param = "w.{layer}"}, %t: !t {neox.name = "tokens", neox.role = "batch"}) -> !w {
    %z = "neox.fill"() {dims = ["layer", "embed"], dtype = "f32", sizes = [2, 4], value = 0.0 : f64} : () -> !w
    %0 = "neox_loop.repeat"(%z, %t, %w) {callee = @micro_step, carried = 1, count = 3, dim = "micro", sliced = 1} : (!w, !t, !w) -> !w
    %1 = "neox.all_reduce"(%0) {axis = "data", ranks = 2} : (!w) -> !w
    return %1 : !w
  }
}
// EXPECT:
//   module {mesh = ["data=2"]}
//   @block.bwd(%d [embed 4], %w [embed 4], %g [embed 4])
//     %0 = mul(%d, %w) [embed 4]
//     %1 = exp(%d) [embed 4]
//     %2 = add(%g, %1) [embed 4]
//     return %0, %2
//   @micro_step(%g [layer 2, embed 4], %x [embed 4], %w [layer 2, embed 4])
//     %0 = repeat(%x, %w, %g) {callee = @block.bwd, carried = 1, count = 2, dim = "layer", reverse = true, sliced = 2} [embed 4], [layer 2, embed 4]
//     return %0#1
//   @train_step(%w [layer 2, embed 4] {param = "w.{layer}"}, %t [micro 3, embed 4] {name = "tokens", role = "batch"})
//     %0 = fill() {dims = ["layer", "embed"], dtype = "f32", sizes = [2, 4], value = 0.0} [layer 2, embed 4]
//     %1 = repeat(%0, %t, %w) {callee = @micro_step, carried = 1, count = 3, dim = "micro", sliced = 1} [layer 2, embed 4]
//     %2 = all_reduce(%1) {axis = "data", ranks = 2} [layer 2, embed 4]
//     return %2
