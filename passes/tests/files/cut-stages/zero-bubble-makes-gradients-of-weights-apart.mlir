// The gradients of weights are a program of their own, which runs when a stage would wait.
// RUN: cut-stages pipe=2 schedule=zb-h1
// SHOW: @train_backward @train_weights
!x = tensor<3xf32, {dims = ["embed"]}>
!w = tensor<4x3xf32, {dims = ["layer", "embed"]}>
!t = tensor<4x3xf32, {dims = ["micro", "embed"]}>
!l = tensor<4xf32, {dims = ["micro"]}>
!s = tensor<f32>
module {
  func.func @block(%x: !x, %w: !x) -> !x {
    %0 = "neox.mul"(%x, %w) : (!x, !x) -> !x
    return %0 : !x
  }
  func.func @block.fwd(%x: !x, %w: !x) -> (!x, !x) {
    %0 = "neox.mul"(%x, %w) : (!x, !x) -> !x
    return %0, %x : !x, !x
  }
  func.func @block.bwd(%d: !x, %w: !x, %x: !x, %g: !x) -> (!x, !x) {
    %0 = "neox.mul"(%d, %w) : (!x, !x) -> !x
    %1 = "neox.mul"(%d, %x) : (!x, !x) -> !x
    %2 = "neox.add"(%g, %1) : (!x, !x) -> !x
    return %0, %2 : !x, !x
  }
  func.func @eval_step(%w: !w {neox.param = "w.{layer}"}, %t: !x {neox.name = "tokens", neox.role = "batch"}) -> !s attributes {neox.results = ["output loss"]} {
    %0 = "neox.exp"(%t) : (!x) -> !x
    %1 = "neox_loop.repeat"(%0, %w) {callee = @block, carried = 1, count = 4, dim = "layer", sliced = 1} : (!x, !w) -> !x
    %2 = "neox.sum_squares"(%1) : (!x) -> !s
    return %2 : !s
  }
  func.func @logits(%w: !w {neox.param = "w.{layer}"}, %t: !x {neox.name = "tokens", neox.role = "batch"}) -> !x attributes {neox.results = ["output logits"]} {
    %0 = "neox.exp"(%t) : (!x) -> !x
    %1 = "neox_loop.repeat"(%0, %w) {callee = @block, carried = 1, count = 4, dim = "layer", sliced = 1} : (!x, !w) -> !x
    %2 = "neox.neg"(%1) : (!x) -> !x
    return %2 : !x
  }
  func.func @micro_step(%g: !w, %t: !x {neox.name = "tokens", neox.role = "batch"}, %w: !w {neox.param = "w.{layer}"}) -> (!w, !s) attributes {neox.results = ["grad w.{layer}", "loss"]} {
    %0 = "neox.exp"(%t) : (!x) -> !x
    %1:2 = "neox_loop.repeat"(%0, %w) {callee = @block.fwd, carried = 1, count = 4, dim = "layer", sliced = 1} : (!x, !w) -> (!x, !w)
    %2 = "neox.sum_squares"(%1#0) : (!x) -> !s
    %3 = "neox.add"(%1#0, %1#0) : (!x, !x) -> !x
    %4:2 = "neox_loop.repeat"(%3, %w, %1#1, %g) {callee = @block.bwd, carried = 1, count = 4, dim = "layer", reverse = true, sliced = 3} : (!x, !w, !w, !w) -> (!x, !w)
    return %4#1, %2 : !w, !s
  }
  func.func @train_step(%w: !w {neox.param = "w.{layer}"}, %t: !t {neox.name = "tokens", neox.role = "batch"}, %lr: !s {neox.name = "lr", neox.role = "scalar"}) -> (!w, !s, !s) attributes {neox.results = ["param w.{layer}", "output loss", "output grad_norm"]} {
    %z = "neox.fill"() {dims = ["layer", "embed"], dtype = "f32", sizes = [4, 3], value = 0.0 : f64} : () -> !w
    %0:2 = "neox_loop.repeat"(%z, %t, %w) {callee = @micro_step, carried = 1, count = 4, dim = "micro", sliced = 1} : (!w, !t, !w) -> (!w, !l)
    %1 = "neox.reduce_sum"(%0#1) {dims = ["micro"]} : (!l) -> !s
    %2 = "neox.sum_squares"(%0#0) : (!w) -> !s
    %3 = "neox.sqrt"(%2) : (!s) -> !s
    %4 = "neox.mul"(%0#0, %lr) : (!w, !s) -> !w
    %5 = "neox.sub"(%w, %4) : (!w, !w) -> !w
    return %5, %1, %3 : !w, !s, !s
  }
}
// EXPECT:
//   @train_backward(%t [embed 3] {name = "t", role = "batch"}, %w [layer 2, embed 3] {param = "w.{layer}"}, %g [layer 2, embed 3] {name = "w.{layer}", role = "grad"}, %dy [embed 3] {name = "dy", role = "slot"}) {results = ["slot dx", "slot saved5"]}
//     %0 = repeat(%dy, %w) {callee = @block.bwd.inputs, carried = 1, count = 2, dim = "layer", reverse = true, sliced = 1} [embed 3], [layer 2, embed 3]
//     return %0#0, %0#1
//   @train_weights(%t [embed 3] {name = "t", role = "batch"}, %w [layer 2, embed 3] {param = "w.{layer}"}, %g [layer 2, embed 3] {name = "w.{layer}", role = "grad"}, %saved4 [layer 2, embed 3] {name = "saved4", role = "slot"}, %saved5 [layer 2, embed 3] {name = "saved5", role = "slot"}) {results = ["grad w.{layer}"]}
//     %0 = repeat(%saved4, %g, %saved5) {callee = @block.bwd.weights, carried = 0, count = 2, dim = "layer", reverse = true, sliced = 3} [layer 2, embed 3]
//     return %0
